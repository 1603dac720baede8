//! Content in files as they lie: compressed, in folders below folders, by pattern.

use crate::input::sql;
use std::fs;

#[test]
fn files_are_read_as_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("nested/a/b/one.csv", "id,text\n1,one\n"),
        ("nested/two.csv", "id,text\n2,two\n"),
        ("parts/day=1/a.csv", "id,text\n3,three\n"),
        ("parts/day=2/b.csv", "id,text\n4,four\n"),
        ("plain.csv", "id,text\n5,five\n"),
    ] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    // Compressed by the program itself, as an option says; read by the name alone.
    for (end, compression) in [
        ("gz", "gzip"),
        ("bz2", "bzip2"),
        ("xz", "xz"),
        ("zst", "zstd"),
    ] {
        for (format, kind) in [("csv", "CSV"), ("json", "JSON")] {
            let write = format!(
                "COPY (SELECT 7 AS id, 'seven' AS text) TO 'packed.{format}.{end}' STORED AS {kind} \
                 OPTIONS (format.compression {compression})"
            );
            let said = sql(dir.path(), &["--ephemeral", "-c", &write]);
            assert_eq!(said.code, 0, "{write}: {}", said.err);
        }
    }
    // Format, location, options, SQL, rows.
    let cases = [
        (
            "CSV",
            "packed.csv.gz",
            "",
            "SELECT * FROM t",
            "id,text\n7,seven\n",
        ),
        (
            "CSV",
            "packed.csv.bz2",
            "",
            "SELECT * FROM t",
            "id,text\n7,seven\n",
        ),
        (
            "CSV",
            "packed.csv.xz",
            "",
            "SELECT * FROM t",
            "id,text\n7,seven\n",
        ),
        (
            "CSV",
            "packed.csv.zst",
            "",
            "SELECT * FROM t",
            "id,text\n7,seven\n",
        ),
        (
            "JSON",
            "packed.json.gz",
            "",
            "SELECT * FROM t",
            "id,text\n7,seven\n",
        ),
        (
            "JSON",
            "packed.json.zst",
            "",
            "SELECT * FROM t",
            "id,text\n7,seven\n",
        ),
        (
            "CSV",
            "packed.csv.gz",
            ", format.compression gzip",
            "SELECT * FROM t",
            "id,text\n7,seven\n",
        ),
        (
            "CSV",
            "nested/",
            "",
            "SELECT * FROM t ORDER BY id",
            "id,text\n1,one\n2,two\n",
        ),
        (
            "CSV",
            "nested/*/*/*.csv",
            "",
            "SELECT * FROM t",
            "id,text\n1,one\n",
        ),
        (
            "CSV",
            // Folders of partitions do not count in a pattern.
            "parts/*.csv",
            "",
            "SELECT id FROM t ORDER BY id",
            "id\n3\n4\n",
        ),
        (
            "CSV",
            "parts/",
            "",
            "SELECT day, id FROM t ORDER BY id",
            "day,id\n1,3\n2,4\n",
        ),
        (
            "CSV",
            "plain.csv",
            "",
            "SELECT * FROM t",
            "id,text\n5,five\n",
        ),
    ];
    for (format, location, options, select, rows) in cases {
        let header = if format == "CSV" {
            "format.has_header true"
        } else {
            "format.schema_infer_max_rec 10"
        };
        let make = format!(
            "CREATE EXTERNAL TABLE t STORED AS {format} LOCATION '{location}' OPTIONS ({header}{options})"
        );
        let said = sql(dir.path(), &["--ephemeral", "-c", &make, "-c", select]);
        assert_eq!(
            (said.code, said.out.as_str()),
            (0, rows),
            "{location}: {}",
            said.err
        );
    }
    // An option that says otherwise counts, and a name that lies is an error.
    let lie = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'packed.csv.gz' OPTIONS (format.compression bzip2)";
    let said = sql(dir.path(), &["--ephemeral", "-c", lie]);
    assert_eq!(said.code, 1, "{}", said.out);
}
