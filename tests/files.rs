//! Content in files as they lie: compressed, in folders below folders, by pattern.

use crate::input::sql;
use datafusion::parquet::file::reader::{FileReader, SerializedFileReader};
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

/// What there is to read wrongly. Row 40,001 of `big.csv` stands on line 40,001 of it, in a part that is not the first.
fn wrong_files(dir: &std::path::Path) {
    let row = |n: u64| match n {
        40_000 => "broken\n".to_owned(),
        n => format!("{n},text number {n} with some words\n"),
    };
    let big: String = (1..50_000).map(row).collect();
    let typed = big.replace("broken\n", "x,words\n");
    let many: String = (1..=1_500).map(|n| format!("{n},text\n")).collect();
    let wide: Vec<String> = (0..25).map(|n| format!("c{n}")).collect();
    let wide = format!("{}\n{}\n", wide.join(","), vec!["1"; 25].join(","));
    for (name, text) in [
        ("big.csv", format!("id,body\n{big}")),
        ("typed.csv", format!("id,body\n{typed}")),
        ("many.csv", format!("id,body\n{many}")),
        ("wide.csv", wide),
        ("exact.csv", "id,body\n1,one\n".to_owned()),
        ("quoted.csv", "id,body\n1,\"a\nb\nc\"\n\n2,x\nz,y\n".to_owned()),
        ("odd.csv", "id,body\n1,one\nx,two\n3\n4,four\n5,\"fi\nve\"\n".to_owned()),
        ("open.csv", "id,body\n1,one\n2,\"two\n3,three\n4,four\n".to_owned()),
        (
            "odd.json",
            "{\"id\":1,\"body\":\"one\"}\n{\"id\":2,\n{\"id\":\"q\",\"body\":\"no\"}\n{\"id\":4,\"body\":\"four\"}\n".to_owned(),
        ),
        ("turned/a.csv", "id,body\n1,one\n".to_owned()),
        ("turned/b.csv", "body,id\ntwo,2\n".to_owned()),
        ("types/a.csv", "id,body\n1,2\n".to_owned()),
        ("types/b.csv", "id,body\n2,two\n".to_owned()),
        ("fewer/a.csv", "id,body\n1,x\n".to_owned()),
        ("fewer/b.csv", "id\n2\n".to_owned()),
        ("no.parquet", "this is no Parquet file".to_owned()),
        ("other/a.txt", "x".to_owned()),
    ] {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let rows = "SELECT id, 'text ' || id AS body FROM (SELECT unnest(range(1, 5000)) AS id)";
    let mut write = vec!["--ephemeral".to_owned()];
    for (name, select) in [
        ("cut/a.parquet", rows),
        ("cut/b.parquet", rows),
        ("damaged/a.parquet", rows),
        ("damaged/b.parquet", rows),
        ("groups/a.parquet", rows),
        ("groups/b.parquet", rows),
        ("kinds/a.parquet", "SELECT 7 AS id, 8 AS body"),
        ("kinds/b.parquet", "SELECT 7 AS id, 'x' AS body"),
        ("less/a.parquet", "SELECT 7 AS id, 'x' AS body"),
        ("less/b.parquet", "SELECT 8 AS id"),
    ] {
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        write.push("-c".to_owned());
        write.push(format!(
            "COPY ({select}) TO '{name}' STORED AS PARQUET OPTIONS (format.max_row_group_size 2000)"
        ));
    }
    let write: Vec<&str> = write.iter().map(String::as_str).collect();
    let said = sql(dir, &write);
    assert_eq!(said.code, 0, "{}", said.err);
    let cut = fs::read(dir.join("cut/b.parquet")).unwrap();
    fs::write(dir.join("cut/b.parquet"), &cut[..cut.len() / 2]).unwrap();
    let mut damaged = fs::read(dir.join("damaged/b.parquet")).unwrap();
    damaged[4..400].fill(0xff);
    fs::write(dir.join("damaged/b.parquet"), damaged).unwrap();
    // The texts of the second of three row groups.
    let path = dir.join("groups/b.parquet");
    let file = SerializedFileReader::new(fs::File::open(&path).unwrap()).unwrap();
    let (begin, length) = file.metadata().row_group(1).column(1).byte_range();
    let mut damaged = fs::read(&path).unwrap();
    let begin = usize::try_from(begin).unwrap();
    damaged[begin..begin + usize::try_from(length).unwrap()].fill(0xff);
    fs::write(path, damaged).unwrap();
}

/// What stands behind `CREATE EXTERNAL TABLE t`, a query, and all that is said; `{dir}` stands for the folder.
const SAID: &[(&str, &str, &str)] = &[
    // What was chosen.
    (
        "STORED AS CSV LOCATION 'exact.csv'",
        "SELECT 1",
        "NOTICE:  t: 2 columns read from exact.csv (id bigint, body text)",
    ),
    (
        "STORED AS CSV LOCATION 'many.csv'",
        "SELECT 1",
        "NOTICE:  t: 2 columns read from many.csv (id bigint, body text), types from the first 1000 rows",
    ),
    (
        "STORED AS CSV LOCATION 'many.csv' OPTIONS (format.schema_infer_max_rec 1500)",
        "SELECT 1",
        "NOTICE:  t: 2 columns read from many.csv (id bigint, body text)",
    ),
    (
        "STORED AS CSV LOCATION 'many.csv' OPTIONS (format.schema_infer_max_rec 1499)",
        "SELECT 1",
        "NOTICE:  t: 2 columns read from many.csv (id bigint, body text), types from the first 1499 rows",
    ),
    (
        "STORED AS CSV LOCATION 'wide.csv'",
        "SELECT 1",
        "NOTICE:  t: 25 columns read from wide.csv (c0 bigint, c1 bigint, c2 bigint, c3 bigint, c4 bigint, c5 bigint, c6 bigint, \
      c7 bigint, c8 bigint, c9 bigint, c10 bigint, c11 bigint, c12 bigint, c13 bigint, c14 bigint, c15 bigint, c16 bigint, \
      c17 bigint, c18 bigint, c19 bigint, ..)",
    ),
    (
        "STORED AS PARQUET LOCATION 'less/'",
        "SELECT body FROM t",
        "NOTICE:  t: 2 columns read from 2 files (id bigint, body text)",
    ),
    (
        "(id INT, body TEXT) STORED AS CSV LOCATION 'many.csv'",
        "SELECT max(id) FROM t",
        "",
    ),
    // Rows that are broken, by the line that an editor shows.
    (
        "(id INT, body TEXT) STORED AS CSV LOCATION 'big.csv'",
        "SELECT max(id) FROM t",
        "ERROR:  22P04: Csv error: file://{dir}/big.csv: incorrect number of fields for line 40001, expected 2 got 1",
    ),
    (
        "(id INT, body TEXT) STORED AS CSV LOCATION 'typed.csv'",
        "SELECT max(id) FROM t",
        "ERROR:  22P04: Parser error: file://{dir}/typed.csv: Error while parsing value 'x' as type 'Int32' for column \"id\" \
      at line 40001. Row data: '[x,words]'",
    ),
    (
        "(id INT, body TEXT) STORED AS CSV LOCATION 'quoted.csv'",
        "SELECT max(id) FROM t",
        "ERROR:  22P04: Parser error: file://{dir}/quoted.csv: Error while parsing value 'z' as type 'Int32' for column \"id\" \
      at line 7. Row data: '[z,y]'",
    ),
    (
        "(id INT, body TEXT) STORED AS JSON LOCATION 'odd.json'",
        "SELECT max(id) FROM t",
        "ERROR:  22P04: Json error: file://{dir}/odd.json: line 2: Encountered unexpected '{' whilst parsing object",
    ),
    (
        "STORED AS CSV LOCATION 'odd.csv'",
        "SELECT 1",
        "ERROR:  22P04: Csv error: file://{dir}/odd.csv: incorrect number of fields for line 4, expected 2 got 1",
    ),
    (
        "STORED AS JSON LOCATION 'odd.json'",
        "SELECT 1",
        "ERROR:  22P04: Json error: file://{dir}/odd.json: line 2: EOF while parsing an object at column 8",
    ),
    // The same left out.
    (
        "(id INT, body TEXT) STORED AS CSV LOCATION 'odd.csv' OPTIONS (safeguard.ignore_broken true)",
        "SELECT id FROM t",
        "NOTICE:  file://{dir}/odd.csv: 2 broken rows left out, the first on line 3",
    ),
    (
        "(id INT, body TEXT) STORED AS CSV LOCATION 'big.csv' OPTIONS (safeguard.ignore_broken true)",
        "SELECT count(*) FROM t",
        "NOTICE:  file://{dir}/big.csv: 1 broken row left out, the first on line 40001",
    ),
    (
        "(id INT, body TEXT) STORED AS JSON LOCATION 'odd.json' OPTIONS (safeguard.ignore_broken true)",
        "SELECT id FROM t",
        "NOTICE:  file://{dir}/odd.json: 2 broken rows left out, the first on line 2",
    ),
    (
        "(id INT, body TEXT) STORED AS CSV LOCATION 'exact.csv' OPTIONS (safeguard.ignore_broken true)",
        "SELECT id FROM t",
        "",
    ),
    (
        "STORED AS CSV LOCATION 'odd.csv' OPTIONS (safeguard.ignore_broken true)",
        "SELECT 1",
        "ERROR:  22023: safeguard.ignore_broken needs declared columns: a row is broken that does not fit them",
    ),
    (
        "(id INT) STORED AS PARQUET LOCATION 'less/' OPTIONS (safeguard.ignore_broken true)",
        "SELECT 1",
        "ERROR:  22023: safeguard.ignore_broken is for CSV and JSON lines: Parquet has no broken rows",
    ),
    (
        "(id INT) STORED AS CSV LOCATION 'odd.csv' OPTIONS (safeguard.ignore_broken maybe)",
        "SELECT 1",
        "ERROR:  22023: safeguard.ignore_broken is true or false, not maybe",
    ),
    (
        "(id INT, body TEXT) STORED AS CSV LOCATION 'open.csv' OPTIONS (safeguard.ignore_broken true)",
        "SELECT 1 / CAST(count(*) = 3 AS INT) FROM t",
        "NOTICE:  file://{dir}/open.csv: 1 broken row left out, the first on line 3",
    ),
    // Parquet that is damaged.
    (
        "STORED AS PARQUET LOCATION 'no.parquet'",
        "SELECT 1",
        "ERROR:  XX001: file://{dir}/no.parquet is no Parquet file, or a damaged one: Invalid Parquet file. Corrupt footer",
    ),
    (
        "STORED AS PARQUET LOCATION 'cut/'",
        "SELECT 1",
        "ERROR:  XX001: file://{dir}/cut/b.parquet is no Parquet file, or a damaged one: Invalid Parquet file. Corrupt footer",
    ),
    (
        "(id BIGINT) STORED AS PARQUET LOCATION 'cut/'",
        "SELECT max(id) FROM t",
        "ERROR:  XX001: file://{dir}/cut/b.parquet is no Parquet file, or a damaged one: Invalid Parquet file. Corrupt footer",
    ),
    (
        "(id BIGINT, body TEXT) STORED AS PARQUET LOCATION 'damaged/'",
        "SELECT sum(id), max(body) FROM t",
        "ERROR:  XX001: file://{dir}/damaged/b.parquet is damaged: row group 0 of 3 (rows 0 to 1999), column \"id\": Unexpected struct \
      field type 15",
    ),
    (
        "(id BIGINT, body TEXT) STORED AS PARQUET LOCATION 'groups/'",
        "SELECT sum(length(body)) FROM t WHERE id > 0",
        "ERROR:  XX001: file://{dir}/groups/b.parquet is damaged: row group 1 of 3 (rows 2000 to 3999), column \"body\": Unexpected \
      struct field type 15",
    ),
    (
        "(id BIGINT, body TEXT) STORED AS PARQUET LOCATION 'groups/'",
        "SELECT sum(id) FROM t WHERE id > 0",
        "",
    ),
    (
        "(id BIGINT, body TEXT) STORED AS PARQUET LOCATION 'groups/'",
        "SELECT sum(id) FROM t WHERE length(body) > 4",
        "ERROR:  XX001: file://{dir}/groups/b.parquet is damaged: row group 1 of 3 (rows 2000 to 3999), column \"body\": Unexpected \
      struct field type 15",
    ),
    // Files of one folder that are not alike.
    (
        "(id TEXT, body TEXT) STORED AS CSV LOCATION 'turned/'",
        "SELECT count(id) FROM t",
        "ERROR:  22P04: file://{dir}/turned/b.csv: column \"id\" is in place 2 of its header and in place 1 of the table: CSV is \
      read by place",
    ),
    (
        "(one TEXT, other TEXT) STORED AS CSV LOCATION 'turned/'",
        "SELECT count(one) FROM t",
        "",
    ),
    (
        "STORED AS CSV LOCATION 'fewer/'",
        "SELECT count(id) FROM t",
        "NOTICE:  t: 2 columns read from 2 files (id bigint, body text)\n\
      ERROR:  22P04: file://{dir}/fewer/b.csv: its header has no column \"body\"",
    ),
    (
        "STORED AS CSV LOCATION 'types/'",
        "SELECT 1",
        "ERROR:  42804: file://{dir}/types/b.csv: column \"body\" is text, in file://{dir}/types/a.csv it is bigint\n\
      HINT:  declare the columns, or one table for each",
    ),
    (
        "STORED AS PARQUET LOCATION 'kinds/'",
        "SELECT 1",
        "ERROR:  42804: file://{dir}/kinds/b.parquet: column \"body\" is text, in file://{dir}/kinds/a.parquet it is bigint\n\
      HINT:  declare the columns, or one table for each",
    ),
    (
        "(id BIGINT, body BIGINT) STORED AS PARQUET LOCATION 'kinds/'",
        "SELECT sum(body) FROM t",
        "ERROR:  22P02: file://{dir}/kinds/b.parquet: Cast error: Cannot cast string 'x' to value of Int64 type",
    ),
    (
        "(id BIGINT, body TEXT) STORED AS PARQUET LOCATION 'kinds/'",
        "SELECT max(body) FROM t",
        "",
    ),
    // What is not there.
    (
        "STORED AS CSV LOCATION 'other/'",
        "SELECT 1",
        "ERROR:  58P01: No files found at file://{dir}/other/. Cannot infer schema from an empty location; either add data files \
      or declare an explicit schema for the table.",
    ),
    (
        "STORED AS CSV LOCATION 'nowhere.csv'",
        "SELECT 1",
        "ERROR:  58P01: cannot read nowhere.csv: no such file or folder",
    ),
    (
        "(id INT, body TEXT) STORED AS CSV LOCATION 'exact.csv'",
        "SELECT nope FROM t",
        "ERROR:  42703: No field named nope.\nValid fields are t.id, t.body.",
    ),
    // Other formats than they say.
    (
        "STORED AS PARQUET LOCATION 'exact.csv'",
        "SELECT 1",
        "ERROR:  XX001: file://{dir}/exact.csv is no Parquet file, or a damaged one: Invalid Parquet file. Corrupt footer",
    ),
    (
        "STORED AS JSON LOCATION 'exact.csv'",
        "SELECT 1",
        "ERROR:  22P04: Json error: file://{dir}/exact.csv: line 1: expected value at column 1",
    ),
];

#[test]
fn files_say_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(dir.path()).unwrap();
    wrong_files(&dir);
    let mut wrong = Vec::new();
    for (table, select, want) in SAID {
        let make = format!("CREATE EXTERNAL TABLE t {table}");
        let said = sql(&dir, &["--ephemeral", "-c", &make, "-c", select]);
        // What DataFusion logs is no part of it.
        let lines = said.err.lines().filter(|line| !line.contains(" WARN"));
        let got = lines.collect::<Vec<_>>().join("\n");
        let want = want.replace("{dir}", dir.to_str().unwrap());
        if got != want {
            wrong.push(format!(
                "{make}; {select}: {}\nwant {want}\ngot  {got}",
                said.out
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
