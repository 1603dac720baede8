//! What does the Classify operator itself cost a row, with a classifier that costs nothing?
//!
//! `cargo bench --bench operator`: 20,000 rows through `safeguard_classify` on `Scripted`, all texts distinct and all
//! equal, beside a built-in string function over the same rows in the same run.

use criterion::{Criterion, criterion_group, criterion_main};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use safeguard_udfs::{Scripted, install};
use std::hint::black_box;
use std::sync::Arc;
use tokio::runtime::Runtime;

const CASES: [(&str, &str); 3] = [
    (
        "upper, distinct texts",
        "SELECT count(*) FROM t WHERE upper(body) = 'X'",
    ),
    (
        "classify, distinct texts",
        "SELECT count(*) FROM t WHERE safeguard_classify('p', body) = 'x'",
    ),
    (
        "classify, one text",
        "SELECT count(*) FROM t WHERE safeguard_classify('p', kind) = 'x'",
    ),
];

fn operator(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let scripted = Arc::new(Scripted::new([("bad", "violates")]));
    let builder = SessionStateBuilder::new().with_default_features();
    let ctx = SessionContext::new_with_state(install(builder, scripted).build());
    let table =
        "CREATE TABLE t AS SELECT 'message ' || value || ' of many' AS body, 'the same' AS kind
                 FROM generate_series(1, 20000)";
    runtime
        .block_on(async { ctx.sql(table).await?.collect().await })
        .expect("a table");
    for (name, sql) in CASES {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                let rows = runtime.block_on(async { ctx.sql(sql).await?.collect().await });
                black_box(rows.expect("an answer"));
            });
        });
    }
}

criterion_group!(benches, operator);
criterion_main!(benches);
