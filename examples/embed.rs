//! The functions in a DataFusion project of your own: any `Classifier`, one call to install.
//!
//! Run with `cargo run --example embed`.

use datafusion::error::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use safeguard_udfs::{Scripted, install};
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<()> {
    // A classifier of one word. Yours asks a model: see `safeguard_udfs::Classifier`.
    let classifier = Arc::new(Scripted::new([("lottery", "violates")]));
    let builder = SessionStateBuilder::new().with_default_features();
    let state = install(builder, classifier.clone()).build();
    let ctx = SessionContext::new_with_state(state);

    ctx.sql(
        "CREATE TABLE posts AS SELECT * FROM (VALUES
            (1, 'you won the lottery'), (2, 'see you at lunch'), (3, 'you won the lottery')
        ) AS t(id, body)",
    )
    .await?;
    ctx.sql(
        "SELECT id, safeguard_classify('spam', body) AS label, safeguard_verdict('spam', body)['rationale'] AS why
         FROM posts WHERE safeguard_violates('spam', body) OR id = 2 ORDER BY id",
    )
    .await?
    .show()
    .await?;

    // Three rows, two distinct texts, two calls in SQL: two questions.
    println!("asked {} texts", classifier.asked());
    Ok(())
}
