//! Hostile and wrong input through the program: what is said, under which SQLSTATE, with which exit code.
//!
//! Every message is compared whole. `{dir}` stands for the folder in which the program runs.

use crate::stores;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// How `safeguard sql` ended.
pub struct Said {
    pub code: i32,
    pub out: String,
    /// Without the line about the demonstration model; notices without tokens and seconds.
    pub err: String,
}

/// Runs `safeguard sql --format csv` in a folder.
pub fn say<'a>(dir: &Path, arguments: impl IntoIterator<Item = &'a OsStr>) -> Said {
    let format = ["sql", "--format", "csv"].map(OsStr::new);
    let output = stores::program(dir, format.into_iter().chain(arguments))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    let mut kept = String::new();
    for line in err
        .lines()
        .filter(|line| !line.starts_with("safeguard-nano"))
    {
        let mut line = line;
        if line.starts_with("NOTICE:  safeguard: ") {
            line = line.rsplitn(3, ", ").last().unwrap();
        }
        kept += line;
        kept += "\n";
    }
    Said {
        code: output.status.code().expect("an exit code"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: kept,
    }
}

/// [`say`] with arguments that are text.
pub fn sql(dir: &Path, arguments: &[&str]) -> Said {
    say(dir, arguments.iter().map(OsStr::new))
}

/// [`sql`] over a store of which nothing is kept.
fn fleeting(dir: &Path, arguments: &[&str]) -> Said {
    let store = stores::fleeting();
    let store = store.iter().map(String::as_str);
    let all: Vec<&str> = store.chain(arguments.iter().copied()).collect();
    sql(dir, &all)
}

/// A statement that fails, and all that is said of it after `ERROR:  `.
const REFUSED: &[(&str, &str)] = &[
    // Policies.
    (
        "SELECT safeguard_classify('spamm', 'x')",
        "42704: policy \"spamm\" does not exist\nHINT:  did you mean spam?",
    ),
    (
        "SELECT safeguard_classify('hate@9', 'x')",
        "42704: policy \"hate@9\" does not exist\nHINT:  did you mean hate@1?",
    ),
    (
        "SELECT safeguard_classify('qqqqqqqq', 'x')",
        "42704: policy \"qqqqqqqq\" does not exist\nHINT:  SELECT name FROM safeguard.policies lists the policies",
    ),
    (
        "SELECT safeguard_classify(NULL, 'x')",
        "22023: policy \"NULL\" is not usable: a policy is a name or a text",
    ),
    (
        "SELECT safeguard_classify(E'K1: violates if it sells\\nanything', 'x')",
        "22023: policy \"inline\" is not usable: it declares no labels: begin it with front matter (a line ---, \
         labels: [allowed, violates], a line ---) or end it with \"Answer with exactly one of: allowed, violates. Do \
         not include any explanation or punctuation in the final answer.\"",
    ),
    (
        "SELECT * FROM safeguard_publish('mine', 'violates if it sells anything')",
        "22023: policy \"mine\" is not usable: it declares no labels: begin it with front matter (a line ---, labels: \
         [allowed, violates], a line ---) or end it with \"Answer with exactly one of: allowed, violates. Do not \
         include any explanation or punctuation in the final answer.\"",
    ),
    (
        "SELECT * FROM safeguard_publish('mine', E'---\\nlabels: [allowed, undecided]\\n---\\nbody')",
        "22023: policy \"mine\" is not usable: label \"undecided\" is declared; it is kept for texts without a verdict",
    ),
    (
        "SELECT * FROM safeguard_publish('mine', E'---\\nlabels: [bad, worse]\\n---\\nbody')",
        "22023: policy \"mine\" is not usable: none of its labels is the allowed one: call it allowed, or mark it in \
         the front matter as {name: .., allowed: true}",
    ),
    (
        "SELECT * FROM safeguard_publish('mine')",
        "42000: safeguard_publish(name, text [, note]): argument \"text\" is missing",
    ),
    // Content.
    (
        "CREATE EXTERNAL TABLE t (id INT, body TEXT) STORED AS CSV LOCATION 'bytes.csv'; SELECT body FROM t",
        "22P04: Csv error: file://{dir}/bytes.csv: Encountered invalid UTF-8 data for line 3 and field 2",
    ),
    (
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'bytes.csv'",
        "22P04: Csv error: bytes.csv: Encountered UTF-8 error while reading CSV file: invalid utf-8: invalid UTF-8 in \
         field 1 near byte index 1 at line 3",
    ),
    (
        "CREATE EXTERNAL TABLE t (id INT, body TEXT) STORED AS CSV LOCATION 'short.csv'; SELECT body FROM t",
        "22P04: Csv error: file://{dir}/short.csv: incorrect number of fields for line 3, expected 2 got 1",
    ),
    (
        "CREATE EXTERNAL TABLE t (id INT, body TEXT) STORED AS CSV LOCATION 'none.csv'",
        "58P01: cannot read none.csv: no such file or folder",
    ),
    (
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{dir}/none.csv'",
        "58P01: cannot read {dir}/none.csv: no such file or folder",
    ),
    (
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'none/'",
        "58P01: No files found at file://{dir}/none/. Cannot infer schema from an empty location; either add data \
         files or declare an explicit schema for the table.",
    ),
    // SQL.
    (
        "SELECT nope FROM (VALUES (1)) AS t(id)",
        "42703: No field named nope.\nValid fields are t.id.",
    ),
    (
        "SELECT * FROM nowhere",
        "42P01: table 'safeguard.public.nowhere' not found",
    ),
    (
        "SELEC 1",
        "42601: syntax error: Expected: an SQL statement, found: SELEC at Line: 1, Column: 1",
    ),
    (
        "SELECT 'never closed",
        "42601: syntax error: Unterminated string literal at Line: 1, Column: 8",
    ),
    (
        "SELECT safeguard_classify('spam', 5)",
        "42883: Function 'safeguard_classify' expects String but received Int64. No function matches the given name \
         and argument types 'safeguard_classify(Utf8, Int64)'. You might need to add explicit type casts.\n\tCandidate \
         functions:\n\tsafeguard_classify(String(2))",
    ),
    // Settings.
    (
        "SET safeguard.mode = 'fast'",
        "22023: safeguard.mode = 'fast' is not one of: auto, score, reason",
    ),
    (
        "SET safeguard.max_rows = '-3'",
        "22023: safeguard.max_rows = '-3' is not one of: none, a whole number",
    ),
    (
        "SET safeguard.mood = 'fast'",
        "42704: setting \"safeguard.mood\" does not exist; there are: safeguard.mode, safeguard.effort, \
         safeguard.answer, safeguard.screen, safeguard.lane, safeguard.max_rows, safeguard.max_tokens, \
         safeguard.max_seconds, safeguard.max_undecided_ratio, safeguard.retry_undecided",
    ),
    (
        "SHOW safeguard.mood",
        "42704: 'safeguard.mood' is not a variable which can be viewed with 'SHOW'",
    ),
    // People's labels.
    (
        "INSERT INTO safeguard.overrides (policy, text, label) VALUES ('keywords', 'x', 'good')",
        "22023: override 1: label \"good\" is not one of policy \"keywords\": allowed, violates",
    ),
    (
        "INSERT INTO safeguard.overrides (policy, text, label) VALUES ('keyword', 'x', 'allowed')",
        "22023: override 1: policy \"keyword\" does not exist",
    ),
];

#[test]
fn what_is_refused_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(dir.path()).unwrap();
    fs::write(dir.join("bytes.csv"), b"id,body\n1,ok\n2,a\xff\xfe\n3,ok\n").unwrap();
    fs::write(dir.join("short.csv"), "id,body\n1,ok\n2\n3,ok\n").unwrap();
    let here = |text: &str| text.replace("{dir}", dir.to_str().unwrap());
    let mut wrong = Vec::new();
    for (script, expected) in REFUSED {
        let script = here(script);
        let headers = "SET datafusion.catalog.has_header = true";
        let said = fleeting(&dir, &["-c", headers, "-c", &script]);
        let expected = format!("ERROR:  {}\n", here(expected));
        if (said.code, &said.err) != (1, &expected) {
            wrong.push(format!(
                "{script}\n-- exit code {}\n{}-- not\n{expected}",
                said.code, said.err
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Statements in score mode, what they print, and their notices after `NOTICE:  safeguard: `.
const DONE: &[(&str, &str, &[&str])] = &[
    (
        "SELECT safeguard_classify('keywords', '') IN ('allowed', 'violates') AS judged",
        "judged\nt\n",
        &["1 row, 0 recalled, 1 asked"],
    ),
    (
        "SELECT safeguard_classify('keywords', NULL) AS l, safeguard_violates('keywords', NULL) AS v",
        "l,v\n,\n",
        &[],
    ),
    (
        "SELECT length(b) AS n, safeguard_classify('keywords', b) = 'undecided' AS u, safeguard_violates('keywords', b) \
         IS NULL AS v, (safeguard_verdict('keywords', b)).reason AS r
         FROM (VALUES ('a'), (repeat('x', 1048576)), (repeat('spam and ', 116509)), ('b')) AS t(b)",
        "n,u,v,r\n1,f,f,\n1048576,t,t,too_long\n1048581,t,t,too_long\n1,f,f,\n",
        &["4 rows, 0 recalled, 2 asked, 2 undecided (2 too_long)"],
    ),
    (
        "SET safeguard.mode = 'reason';
         SELECT length((safeguard_verdict('keywords', 'free money')).rationale) > 0 AS said",
        "said\nt\n",
        &["1 row, 0 recalled, 1 asked"],
    ),
    (
        "SHOW safeguard.mode; RESET safeguard.mode; SHOW safeguard.mode",
        "name,value\nsafeguard.mode,score\nname,value\nsafeguard.mode,auto\n",
        &[],
    ),
    (
        "SELECT safeguard_violates('keywords', 'x') IS NULL AS n;
         INSERT INTO safeguard.overrides (policy, text, label) VALUES ('keywords', 'x', 'violates');
         SELECT label, violates, stage, source FROM safeguard.labels;
         INSERT INTO safeguard.overrides (policy, text, label) VALUES ('keywords', 'x', 'allowed');
         SELECT label, violates, stage, source FROM safeguard.labels",
        "n\nf\nlabel,violates,stage,source\nviolates,t,human,override\nlabel,violates,stage,source\n\
         allowed,f,human,override\n",
        &["1 row, 0 recalled, 1 asked"],
    ),
    (
        "SELECT version, new FROM safeguard_publish('mine', E'---\\nlabels: [allowed, bad]\\n---\\nbad if it sells');
         SELECT version, new FROM safeguard_publish('mine', E'---\\nlabels: [allowed, bad]\\n---\\nbad if it sells');
         SELECT name, version FROM safeguard.policy_versions WHERE name = 'mine'",
        "version,new\n1,t\nversion,new\n1,f\nname,version\nmine,1\n",
        &[],
    ),
    (
        "SET safeguard.answer = 'stored'; SELECT safeguard_classify('keywords', 'x') AS l;
         SELECT count(*) AS n FROM safeguard.verdicts; SET safeguard.answer = 'wait';
         SELECT safeguard_classify('keywords', 'x') <> 'undecided' AS l; SET safeguard.answer = 'stored';
         SELECT safeguard_classify('keywords', 'x') <> 'undecided' AS l",
        "l\nundecided\nn\n0\nl\nt\nl\nt\n",
        &[
            "1 row, 0 recalled, 0 asked, 1 undecided (1 budget)",
            "1 row, 0 recalled, 1 asked",
            "1 row, 1 recalled, 0 asked",
        ],
    ),
    (
        "CREATE TABLE t AS VALUES ('a'), ('b'), ('c'), ('d'), ('e'); SET safeguard.max_rows = 2;
         SELECT (safeguard_verdict('keywords', column1)).reason AS r, count(*) AS n FROM t GROUP BY r ORDER BY n;
         SELECT count(*) AS stored FROM safeguard.verdicts; SET safeguard.max_rows = 'none';
         SELECT count(*) AS n FROM t WHERE safeguard_classify('keywords', column1) <> 'undecided';
         SELECT asked, undecided, recalled FROM safeguard.queries ORDER BY id",
        "r,n\n,2\nbudget,3\nstored\n2\nn\n5\nasked,undecided,recalled\n2,3,0\n3,0,2\n",
        &[
            "5 rows, 0 recalled, 2 asked, 3 undecided (3 budget)",
            "5 rows, 2 recalled, 3 asked",
        ],
    ),
    (
        "SELECT * FROM safeguard.policies LIMIT 0; SELECT * FROM safeguard.policy_versions LIMIT 0;
         SELECT * FROM safeguard.verdicts; SELECT * FROM safeguard.labels; SELECT * FROM safeguard.queries",
        "name,version,digest,title,labels,published_at,note\n\
         name,version,digest,text,labels,published_at,published_by,note\n\
         verdict_digest,policy,policy_version,policy_digest,text_digest,label,violates,score,rationale,rules,reason,\
         stage,mode,effort,model,model_digest,tokens_in,tokens_out,judged_at,gap,seconds\n\
         policy,text_digest,label,violates,stage,source,judged_at\n\
         id,started_at,user,statement,status,rows,distinct_texts,recalled,screened,asked,undecided,tokens_in,\
         tokens_out,seconds,role,model,busy_seconds\n",
        &[],
    ),
];

#[test]
fn what_is_odd_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (script, out, notices) in DONE {
        let script = format!("SET safeguard.mode = 'score'; {script}");
        let said = fleeting(dir.path(), &["-c", &script]);
        let lines = notices
            .iter()
            .map(|notice| format!("NOTICE:  safeguard: {notice}\n"));
        let err: String = lines.collect();
        if (said.code, said.out.as_str(), &said.err) != (0, *out, &err) {
            wrong.push(format!(
                "{script}\n-- exit code {}\n{}{}-- not\n{out}{err}",
                said.code, said.out, said.err
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_script_ends_at_its_first_failure() {
    let dir = tempfile::tempdir().unwrap();
    for second in ["SELECT nope", "SELEC 1"] {
        let script = format!("SELECT 1 AS a; {second}; SELECT 3 AS c");
        for arguments in [
            vec!["-c", &script],
            vec!["-c", "SELECT 1 AS a", "-c", second, "-c", "SELECT 3 AS c"],
        ] {
            let said = fleeting(dir.path(), &arguments);
            assert_eq!((said.code, said.out.as_str()), (1, "a\n1\n"), "{second}");
            assert!(said.err.starts_with("ERROR:  42"), "{}", said.err);
        }
    }
}

/// What is done to a store, and what is said when it is opened next.
type Harm = (fn(&mut Vec<u8>), &'static str);

#[test]
fn a_store_that_is_not_plainly_ours_is_left_as_it_is() {
    // Of a schema in PostgreSQL `store::server::tests` show it.
    if stores::are_shared() {
        return;
    }
    let cases: &[Harm] = &[
        (
            |file| file[6_000..9_000].fill(0xa5),
            "store data/verdicts.db is damaged: *** in database main *** Tree 3 page 3: btreeInitPage() returns error \
             code 11 (left as it is)",
        ),
        (
            Vec::clear,
            "store data/verdicts.db is damaged: file is empty (left as it is)",
        ),
        (
            |file| *file = b"a letter to the editor\n".repeat(500),
            "store data/verdicts.db is not a safeguard store: file is not a database (left as it is)",
        ),
        (
            // SQLite keeps user_version in its header.
            |file| file[60..64].copy_from_slice(&99_u32.to_be_bytes()),
            "store data/verdicts.db has format 99, written by a newer safeguard; this one knows up to 10 (left as it is)",
        ),
    ];
    for (harm, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let arguments = ["--data-dir", "data", "-c", "SELECT 1 AS a"];
        let said = sql(dir.path(), &arguments);
        assert_eq!(
            (said.code, said.out.as_str()),
            (0, "a\n1\n"),
            "{}",
            said.err
        );
        let path = dir.path().join("data/verdicts.db");
        let mut bytes = fs::read(&path).unwrap();
        harm(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let said = sql(dir.path(), &arguments);
        let expected = format!("ERROR:  XX001: {expected}\n");
        assert_eq!((said.code, said.out.as_str(), said.err), (1, "", expected));
        assert!(fs::read(&path).unwrap() == bytes, "the file was changed");
    }
}

fn replaced(bytes: &[u8], after: &str, old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len(), "offsets stay");
    let find = |bytes: &[u8], what: &str| {
        let mut windows = bytes.windows(what.len());
        windows
            .position(|window| window == what.as_bytes())
            .expect("there")
    };
    let start = find(bytes, after);
    let start = start + find(&bytes[start..], old);
    [&bytes[..start], new.as_bytes(), &bytes[start + old.len()..]].concat()
}

#[test]
fn a_model_that_cannot_be_used_says_why() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/tiny");
    let weights = fs::read(tiny.join("model.safetensors")).unwrap();
    let sinks = "model.layers.1.self_attn.sinks";
    let blocks = "model.layers.0.mlp.experts.down_proj_blocks";
    let cases = [
        (
            None,
            "cannot read model/config.json: No such file or directory (os error 2)",
        ),
        (
            Some(replaced(
                &weights,
                sinks,
                sinks,
                "model.layers.1.self_attn.holes",
            )),
            "tensor model.layers.1.self_attn.sinks is missing from model.safetensors",
        ),
        (
            Some(replaced(&weights, blocks, "[8,96,3,16]", "[8,96,48,1]")),
            "tensor model.layers.0.mlp.experts.down_proj_blocks in model.safetensors has shape [8, 96, 48, 1], expected \
             [8, 96, 3, 16]",
        ),
    ];
    for (weights, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        fs::create_dir(&model).unwrap();
        if let Some(weights) = weights {
            fs::copy(tiny.join("config.json"), model.join("config.json")).unwrap();
            fs::write(model.join("model.safetensors"), weights).unwrap();
        }
        let said = fleeting(dir.path(), &["--model", "model", "-c", "SELECT 1"]);
        let expected = format!("ERROR:  58000: cannot open model \"model\": {expected}\n");
        assert_eq!((said.code, said.out.as_str(), said.err), (1, "", expected));
    }
}
