//! `safeguard policy ..` through the program: publishing, listing, showing, comparing and testing policies.

use crate::stores;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Runs `safeguard` in a folder with a text on standard input: exit code, stdout, stderr without the line about the
/// demonstration model.
fn run(dir: &Path, input: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut child = stores::program(dir, arguments)
        .env("USER", "ann")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that needs no input does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    let err = err.lines().filter(|l| !l.starts_with("safeguard-nano"));
    (
        output.status.code().expect("an exit code"),
        String::from_utf8(output.stdout).unwrap(),
        err.map(|line| format!("{line}\n")).collect(),
    )
}

fn policy(dir: &Path, arguments: &str) -> (i32, String, String) {
    let arguments: Vec<&str> = ["policy"].into_iter().chain(arguments.split(' ')).collect();
    run(dir, "", &arguments)
}

fn mine(rules: &str) -> String {
    format!("---\nlabels: [allowed, bad]\ntitle: Mine\n---\nFind it.\n{rules}\n")
}

/// What is typed, and what comes of it.
const STEPS: &[(&str, i32, &str, &str)] = &[
    (
        "publish mine mine.md --note first",
        0,
        "mine@1\n",
        "a running server takes it on SIGHUP, and at once where somebody asks for mine@1\n",
    ),
    (
        "publish mine mine.md",
        0,
        "mine@1\n",
        "the text is that of the current version: nothing was published\n",
    ),
    (
        "publish mine mine2.md",
        0,
        "mine@2\n",
        "a running server takes it on SIGHUP, and at once where somebody asks for mine@2\n",
    ),
    (
        "publish Mine mine.md",
        1,
        "",
        "ERROR:  22023: policy \"Mine\" is not usable: a name is a lower-case letter, then lower-case letters, digits, - and _\n",
    ),
    (
        "publish mine none.md",
        1,
        "",
        "ERROR:  58030: cannot read none.md: No such file or directory (os error 2)\n",
    ),
    (
        "show mine@1",
        0,
        "---\nlabels: [allowed, bad]\ntitle: Mine\n---\nFind it.\n- H1: insults.\n- H2: threats.\n",
        "",
    ),
    (
        "show mina",
        1,
        "",
        "ERROR:  42704: policy \"mina\" does not exist\nHINT:  did you mean mine?\n",
    ),
    (
        "show mine@7",
        1,
        "",
        "ERROR:  42704: policy \"mine@7\" does not exist\nHINT:  did you mean mine@2, mine@1?\n",
    ),
    (
        "diff mine@1 mine",
        0,
        "--- mine@1\n+++ mine@2\n@@ -3,5 +3,5 @@\n title: Mine\n ---\n Find it.\n-- H1: insults.\n-- H2: threats.\n+- H1: insults and slurs.\n+- H3: lies.\nrules: H1 reworded, H3 added, H2 removed\n",
        "",
    ),
    (
        "diff mine mine2.md",
        0,
        "the same version: no verdict can change\n",
        "",
    ),
    (
        "diff mine none.md",
        1,
        "",
        "ERROR:  58030: cannot read none.md: No such file or directory (os error 2)\n",
    ),
];

#[test]
fn policies_are_published_shown_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = policy(dir.path(), "list");
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains(" keywords ") && out.contains("(9 rows)"),
        "{out}"
    );
    // Whether there is a schema nobody knows before it is asked for, which makes one.
    let none =
        "there is no store in safeguard-data: these are the policies that come with the program\n";
    assert_eq!(err, if stores::are_shared() { "" } else { none });
    assert!(
        !dir.path().join("safeguard-data").exists(),
        "looking makes nothing"
    );
    let write = |name, rules| fs::write(dir.path().join(name), mine(rules)).unwrap();
    write("mine.md", "- H1: insults.\n- H2: threats.");
    write("mine2.md", "- H1: insults and slurs.\n- H3: lies.");
    for &(arguments, code, out, err) in STEPS {
        let found = policy(dir.path(), arguments);
        assert_eq!(found, (code, out.to_owned(), err.to_owned()), "{arguments}");
    }
    let source = mine("- H1: from a pipe.");
    let piped = run(dir.path(), &source, &["policy", "publish", "mine", "-"]);
    assert_eq!((piped.0, &*piped.1), (0, "mine@3\n"), "{}", piped.2);
    let (_, out, _) = policy(dir.path(), "list --all --format csv");
    let own: Vec<&str> = out
        .lines()
        .filter(|line| line.starts_with("mine,"))
        .collect();
    assert_eq!(own.len(), 3, "{out}");
    assert!(own[0].starts_with("mine,1,"), "{out}");
    assert!(own[0].contains(",\"allowed, bad\",Mine,ann,"), "{out}");
    assert!(own[0].ends_with(",first"), "{out}");
}

/// A folder `name` with a policy of one word and texts that nano knows how to judge.
fn folder(dir: &Path, name: &str, thresholds: &str) {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(
        folder.join("policy.md"),
        format!(
            "---\nlabels: [allowed, violates]\nthresholds: {thresholds}\n---\nK1: violates if the message mentions \
             any of: bank, account, card, phone; everything else is allowed.\n"
        ),
    )
    .unwrap();
    fs::write(
        folder.join("golden.csv"),
        "text,label\nplease call the bank today,violates\nmy phone is broken,violates\n\
         the weather is nice today,allowed\nwe had soup for lunch,allowed\n",
    )
    .unwrap();
}

#[test]
fn policies_are_held_to_their_thresholds() {
    let dir = tempfile::tempdir().unwrap();
    folder(
        dir.path(),
        "all/easy",
        "{accuracy: 0, violates: {recall: 0}}",
    );
    folder(dir.path(), "all/none", "{}");
    let (code, out, err) = policy(dir.path(), "test all/easy");
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("| violates | 2 |"), "{out}");
    assert!(out.ends_with("(3 rows)\n\n"), "{out}");
    let (code, out, err) = policy(dir.path(), "test ./all");
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.ends_with("(6 rows)\n\n"), "{out}");
    assert!(
        err.contains("none declares no thresholds: nothing is held against it"),
        "{err}"
    );
    // Nothing stays to be asked, and a golden label that nano cannot give is a threshold missed.
    folder(dir.path(), "hard", "{violates: {precision: 1, recall: 1}}");
    fs::write(
        dir.path().join("hard/golden.csv"),
        "text,label\nmy phone is broken,allowed\nmy bank is broken,violates\nsoup,violates\n",
    )
    .unwrap();
    let (code, out, err) = policy(dir.path(), "test hard");
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("recall < 1"), "{out}");
    // Published, it is tested by its name, with the labels that people gave.
    let publish = policy(dir.path(), "publish words all/easy/policy.md");
    assert_eq!(publish.1, "words@1\n");
    let (code, _, err) = policy(dir.path(), "test words");
    assert_eq!(code, 1);
    assert!(
        err.contains("ERROR:  22023: words@1 has no golden rows\nHINT:  "),
        "{err}"
    );
    let insert = "INSERT INTO safeguard.overrides (policy, text, label) VALUES ('words', 'call the bank', 'violates')";
    assert_eq!(run(dir.path(), "", &["sql", "-c", insert]).0, 0);
    let (code, out, err) = policy(dir.path(), "test words");
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("words@1"), "{out}");
    for (arguments, wanted) in [
        (
            "test nowhere",
            "ERROR:  42704: policy \"nowhere\" does not exist",
        ),
        (
            "test ./nowhere",
            "ERROR:  22023: ./nowhere/policy.md: there is no such file",
        ),
    ] {
        let (code, _, err) = policy(dir.path(), arguments);
        assert_eq!(code, 1);
        assert!(err.contains(wanted), "{arguments}: {err}");
    }
}

#[test]
fn a_folder_of_policies_is_published_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), "own/words", "{}");
    fs::create_dir(dir.path().join("own/broken")).unwrap();
    fs::write(dir.path().join("own/broken/policy.md"), "nothing").unwrap();
    let ask = "SELECT version, published_by, note FROM safeguard.policy_versions WHERE name = 'words';
               SELECT sum(n), sum(right) IS NOT NULL FROM safeguard_evaluate('words') WHERE label <> '*'";
    let arguments = ["sql", "--policies", "own", "--format", "csv", "-c", ask];
    for start in 1..=2 {
        let (code, out, err) = run(dir.path(), "", &arguments);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("1,folder,own/words/policy.md\n"), "{out}");
        assert!(out.ends_with("\n4,t\n"), "its golden set counts: {out}");
        assert!(
            err.contains("own/broken/policy.md: policy \"broken\" is not usable"),
            "{err}"
        );
        let said = err.contains("published words@1 from own/words/policy.md");
        assert_eq!(said, start == 1, "{err}");
    }
    let missing = ["sql", "--policies", "none", "-c", "SELECT 1"];
    let (code, _, err) = run(dir.path(), "", &missing);
    assert_eq!(code, 1);
    assert!(err.contains("none: No such file or directory"), "{err}");
}

/// A server that does not outlive its test.
#[cfg(unix)]
struct Server(Child);

#[cfg(unix)]
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(unix)]
#[test]
fn a_server_takes_policies_again_on_sighup() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), "own/words", "{}");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--policies", "own"];
    let server = stores::program(dir.path(), serve)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut server = Server(server);
    let mut lines = BufReader::new(server.0.stderr.take().unwrap()).lines();
    let mut until = |wanted: &str| -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let line = lines.next();
            let line = line
                .unwrap_or_else(|| panic!("no {wanted} in {said:?}"))
                .unwrap();
            said.push(line);
            if said.last().is_some_and(|line| line.contains(wanted)) {
                return said;
            }
        }
    };
    let said = until("listening on");
    assert!(
        said.iter()
            .any(|l| l == "published words@1 from own/words/policy.md"),
        "{said:?}"
    );
    // Another process publishes beside the server, the folder has a new file, and an old one breaks.
    fs::write(dir.path().join("mine.md"), mine("- H1: insults.")).unwrap();
    assert_eq!(policy(dir.path(), "publish words mine.md").1, "words@2\n");
    fs::write(dir.path().join("own/more.md"), mine("- M1: lies.")).unwrap();
    fs::write(dir.path().join("own/words/policy.md"), "nothing").unwrap();
    let hangup = Command::new("kill")
        .args(["-HUP", &server.0.id().to_string()])
        .status();
    assert!(hangup.unwrap().success());
    let said = until("published more@1 from own/more.md");
    assert!(
        said.iter()
            .any(|l| l.contains("policy \"words\" is not usable")),
        "{said:?}"
    );
    let (_, out, _) = policy(dir.path(), "list --format csv");
    assert!(
        out.contains("\nwords,2,") && out.contains("\nmore,1,"),
        "{out}"
    );
}

/// What others published is imported once, and is then a policies folder like any other.
#[test]
fn policies_of_others_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let pack = dir.path().join("pack");
    fs::create_dir_all(pack.join("datasets")).unwrap();
    let text = "Noise Policy\nClassify each EXAMPLE as VALID or INVALID (noise).\nNO0.a Question\nNO2.a Call to buy\n";
    fs::write(pack.join("noise.md"), text).unwrap();
    let sheet = "example,classification\nhow loud,NO0\nbuy it,NO2\n";
    fs::write(pack.join("datasets/noise.csv"), sheet).unwrap();
    let (code, out, err) = policy(dir.path(), "import pack");
    let want = "noise: labels VALID, INVALID; 2 rules, 2 golden rows\n";
    assert_eq!((code, out.as_str()), (0, want), "{err}");
    let golden = fs::read_to_string(dir.path().join("policies/noise/golden.csv")).unwrap();
    assert_eq!(golden, "text,label\nhow loud,VALID\nbuy it,INVALID\n");
    let (code, out, err) = policy(dir.path(), "import pack");
    let there =
        "ERROR:  58030: policies/noise/policy.md is there already; --replace writes over it\n";
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", there));
    let (code, _, err) = policy(dir.path(), "import pack --replace --levels");
    assert_eq!(code, 0, "{err}");
    let (code, out, _) = policy(dir.path(), "import none");
    assert_eq!((code, out.as_str()), (1, ""));
    // It is published and judged under like any other.
    let judge = "SELECT safeguard_classify('noise', 'hello') IN ('NO0', 'NO2') AS judged";
    let arguments = [
        "sql",
        "--format",
        "csv",
        "--policies",
        "policies",
        "-c",
        judge,
    ];
    let (code, out, err) = run(dir.path(), "", &arguments);
    assert_eq!((code, out.as_str()), (0, "judged\nt\n"), "{err}");
}
