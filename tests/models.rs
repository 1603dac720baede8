//! Models on disk: a hub that cuts connections and lies, folders that are no models, and the command that says so.

mod hub;

use hub::{Blob, Double, REPOSITORY};
use safeguard::models::{self, ModelsError};
use safeguard::models::{Finding, Hub, Level, Order, Place, Pulled, Shape};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A small model's files, as a hub has them, with copies in other layouts beside them.
fn released() -> Vec<Blob> {
    let dir = tempfile::tempdir().expect("a folder");
    let order = Order {
        shape: Shape::Nano,
        layers: Some(1),
        seed: 4,
    };
    models::synthesize(&order, dir.path(), &|_, _| ()).expect("written");
    let read = |name: &str| std::fs::read(dir.path().join(name)).expect("read");
    vec![
        Blob::git("README.md", b"a card"),
        Blob::git("config.json", &read("config.json")),
        Blob::large("tokenizer.json", &read("tokenizer.json")),
        Blob::large("model.safetensors", &read("model.safetensors")),
        Blob::large("original/model.safetensors", b"the same in another layout"),
        Blob::large("metal/model.bin", b"and in another"),
    ]
}

fn pull(double: &Double, models: &Path) -> Result<models::Pull, ModelsError> {
    pull_as(double, None, REPOSITORY, "main", models)
}

fn pull_as(
    double: &Double,
    token: Option<&str>,
    repository: &str,
    revision: &str,
    models: &Path,
) -> Result<models::Pull, ModelsError> {
    let hub = Hub::new(&double.endpoint(), token.map(str::to_owned)).hurried();
    models::pull(&hub, repository, revision, models, &|_: Pulled<'_>| ())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("read")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    names.sort();
    names
}

fn findings(dir: &Path) -> (bool, Vec<Finding>) {
    let mut all = Vec::new();
    let place = Place::Folder(dir.to_owned());
    let sound = models::verify(&place, false, &mut |finding| all.push(finding));
    (sound, all)
}

#[test]
fn a_pulled_model_is_whole_listed_and_sound() {
    let (double, models) = (
        Double::start(released()),
        tempfile::tempdir().expect("a folder"),
    );
    let pulled = pull(&double, models.path()).expect("pulled");
    assert_eq!(pulled.dir, models.path().join(REPOSITORY));
    assert_eq!(
        names(&pulled.dir),
        [
            "config.json",
            "model.safetensors",
            "safeguard.json",
            "tokenizer.json"
        ]
    );
    let weights = std::fs::read(pulled.dir.join("model.safetensors")).expect("read");
    assert_eq!(weights, double.blob("model.safetensors").bytes);
    assert_eq!(names(models.path()), [".partial", "openai"]);
    let listed = models::list(models.path()).expect("a list");
    let digest = Some(pulled.digest.clone());
    assert_eq!((&*listed[1].name, &listed[1].digest), (REPOSITORY, &digest));
    let found = models::resolve("random", models.path()).expect("found");
    assert_eq!(found, Place::Folder(pulled.dir.clone()));
    let (sound, all) = findings(&pulled.dir);
    assert!(sound, "{all:#?}");
    assert!(
        all.iter()
            .any(|f| f.check == "digest" && f.detail.contains("as pulled from")),
        "{all:#?}"
    );
    // Again: nothing is fetched, and nothing but the description is asked for.
    let before = double.asked().len();
    assert_eq!(pull(&double, models.path()).expect("there").fetched, 0);
    assert_eq!(double.asked().len(), before + 1);
}

#[test]
fn a_cut_connection_is_gone_on_with_where_it_was() {
    let models = tempfile::tempdir().expect("a folder");
    let (file, cut) = ("model.safetensors", 500_000);
    let double = Double::start(released());
    // More cuts than tries without progress are allowed; each brings some bytes.
    double.cut(file, 8, cut);
    let pulled = pull(&double, models.path()).expect("pulled");
    let weights = double.blob(file).bytes.clone();
    assert_eq!(std::fs::read(pulled.dir.join(file)).expect("read"), weights);
    let ranges: Vec<Option<u64>> = double.ranges(file);
    assert_eq!(ranges.len(), 9, "{ranges:?}");
    assert_eq!(ranges[0], None);
    assert!(
        ranges.windows(2).all(|pair| pair[0] < pair[1]),
        "{ranges:?}"
    );
    let others: u64 = ["config.json", "tokenizer.json"]
        .map(|name| double.blob(name).bytes.len() as u64)
        .iter()
        .sum();
    assert_eq!(
        pulled.fetched,
        weights.len() as u64 + others,
        "no byte twice"
    );
}

#[test]
fn a_pull_that_gave_up_goes_on_in_the_next() {
    let models = tempfile::tempdir().expect("a folder");
    let file = "model.safetensors";
    let double = Double::start(released());
    double.cut(file, 1, 500_000);
    double.fail(file, 5, 503);
    let refused = pull(&double, models.path())
        .expect_err("gave up")
        .to_string();
    assert!(
        refused.contains("gave 500.0 kB of") && refused.contains("503"),
        "{refused}"
    );
    assert!(refused.ends_with("pull again to go on"), "{refused}");
    assert!(!models.path().join(REPOSITORY).exists());
    let refused = models::resolve("random", models.path()).expect_err("not there");
    assert!(matches!(refused, ModelsError::Unknown { .. }), "{refused}");
    pull(&double, models.path()).expect("pulled");
    assert_eq!(double.ranges(file).last(), Some(&Some(500_000)));
    assert_eq!(
        double.ranges("tokenizer.json").len(),
        1,
        "kept from the first"
    );
}

#[test]
fn a_hub_that_cannot_go_on_begins_anew() {
    let models = tempfile::tempdir().expect("a folder");
    let file = "model.safetensors";
    let double = Double::start(released());
    double.cut(file, 1, 500_000);
    double.ignore_ranges();
    let pulled = pull(&double, models.path()).expect("pulled");
    let weights = std::fs::read(pulled.dir.join(file)).expect("read");
    assert_eq!(weights, double.blob(file).bytes);
}

#[test]
fn what_is_not_what_the_hub_says_is_not_kept() {
    for file in ["config.json", "model.safetensors"] {
        let models = tempfile::tempdir().expect("a folder");
        let double = Double::start(released());
        double.spoil(file, 1);
        let refused = pull(&double, models.path()).expect_err("refused");
        assert!(
            matches!(&refused, ModelsError::Digest { file: of, .. } if of == file),
            "{refused}"
        );
        assert!(!models.path().join(REPOSITORY).exists());
        let partial = models.path().join(".partial").join(REPOSITORY);
        assert!(!names(&partial).iter().any(|name| name.ends_with(".part")));
        assert!(!partial.join("new").join(file).exists());
        pull(&double, models.path()).expect("sound now");
    }
}

#[test]
fn another_commit_replaces_the_model_and_fetches_what_changed() {
    let models = tempfile::tempdir().expect("a folder");
    let first = Double::start(released());
    pull(&first, models.path()).expect("pulled");
    let mut blobs = released();
    blobs.push(Blob::git("generation_config.json", b"{}"));
    let second = Double::start(blobs);
    let pulled = pull(&second, models.path()).expect("pulled");
    assert_eq!(pulled.fetched, 2);
    assert!(names(&pulled.dir).contains(&"generation_config.json".to_owned()));
    assert!(findings(&pulled.dir).0);
}

#[test]
fn what_a_hub_does_not_show_is_named() {
    let models = tempfile::tempdir().expect("a folder");
    let double = Double::start(released());
    let ask = |token, repository, revision| {
        pull_as(&double, token, repository, revision, models.path())
            .expect_err("refused")
            .to_string()
    };
    let endpoint = double.endpoint();
    let cases = [
        (ask(None, "no/where", "main"), format!("{endpoint} shows no model no/where: it is not there, or it is private and HF_TOKEN must hold a token that may read it")),
        (ask(Some("hf_wrong"), "no/where", "main"), format!("{endpoint} shows no model no/where: it is not there, or the token in HF_TOKEN may not read it")),
        (ask(None, REPOSITORY, "v9"), format!("{REPOSITORY} has no revision \"v9\"")),
        (ask(None, "openai/gated", "main"), format!("openai/gated is gated: accept its terms at {endpoint}/openai/gated, then put your token into HF_TOKEN")),
        (ask(None, "random", "main"), "\"random\" is not OWNER/NAME, as a hub names a model".to_owned()),
        (ask(None, "openai/empty", "main"), "openai/empty has no config.json with model*.safetensors beside it: not a model in the released layout".to_owned()),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
}

#[test]
fn a_token_reaches_the_hub_and_nobody_else() {
    let models = tempfile::tempdir().expect("a folder");
    let (double, store) = (Double::start(released()), Double::start(released()));
    double.redirect_to(&store);
    pull_as(
        &double,
        Some("hf_secret"),
        REPOSITORY,
        "main",
        models.path(),
    )
    .expect("pulled");
    assert!(
        double
            .asked()
            .iter()
            .all(|asked| asked.token.as_deref() == Some("Bearer hf_secret"))
    );
    assert!(!store.asked().is_empty());
    assert!(store.asked().iter().all(|asked| asked.token.is_none()));
}

#[test]
fn another_architecture_is_refused_before_its_weights() {
    let models = tempfile::tempdir().expect("a folder");
    let blobs = vec![
        Blob::git("config.json", br#"{"model_type": "llama"}"#),
        Blob::large("model.safetensors", &[0; 1000]),
    ];
    let double = Double::start(blobs);
    let refused = pull(&double, models.path())
        .expect_err("refused")
        .to_string();
    assert!(
        refused.contains("only \"gpt_oss\" is supported"),
        "{refused}"
    );
    assert!(double.ranges("model.safetensors").is_empty());
}

#[test]
fn a_broken_model_fails_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let write =
        |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("written");
    let blobs = released();
    let of = |name: &str| {
        blobs
            .iter()
            .find(|blob| blob.name == name)
            .expect("a blob")
            .bytes
            .clone()
    };
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        write(name, &of(name));
    }
    assert!(findings(dir.path()).0);
    // The first tensors of the file are the embedding's and the head's brain floats.
    let mut wild = of("model.safetensors");
    let start = 8 + u64::from_le_bytes(wild[..8].try_into().expect("8 bytes")) as usize;
    wild[start..start + 2].copy_from_slice(&[0xc0, 0x7f]);
    write("model.safetensors", &wild);
    let (sound, all) = findings(dir.path());
    let failed: Vec<&Finding> = all.iter().filter(|f| f.level == Level::Fail).collect();
    assert!(!sound && failed.len() == 1, "{all:#?}");
    assert_eq!(
        (failed[0].check, &*failed[0].detail),
        ("numbers", "not finite: lm_head.weight (1)")
    );
    write("model.safetensors", &wild[..wild.len() - 1]);
    let (sound, all) = findings(dir.path());
    assert!(
        !sound && all.last().is_some_and(|f| f.check == "tensors"),
        "{all:#?}"
    );
}

fn safeguard(args: &[&str], models: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_safeguard"))
        .args(args)
        .env("SAFEGUARD_MODELS", models)
        .output()
        .expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_command_makes_lists_verifies_and_asks_a_model_by_name() {
    let models = tempfile::tempdir().expect("a folder");
    let dir: PathBuf = models.path().join("mine");
    let dir = dir.to_str().expect("a name");
    let run = |args: &[&str]| safeguard(args, models.path());
    let made = run(&[
        "model",
        "synthesize",
        "--like",
        "nano",
        "--layers",
        "2",
        "--seed",
        "9",
        dir,
    ]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert!(
        text(&made.stderr).contains("of random weights to"),
        "{}",
        text(&made.stderr)
    );
    let again = run(&["model", "synthesize", "--like", "nano", dir]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("55000") && text(&again.stderr).contains("is not empty"));
    let list = text(&run(&["model", "list"]).stdout);
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 3, "{list}");
    assert!(
        lines[1].starts_with("nano") && lines[2].starts_with("mine"),
        "{list}"
    );
    let verified = run(&["model", "verify", "mine"]);
    let said = text(&verified.stdout);
    assert!(verified.status.success(), "{said}");
    assert!(
        said.contains("ok    scales") && said.contains("tokens/s decoding"),
        "{said}"
    );
    let sql = "SELECT safeguard_score('keywords', 'hello') BETWEEN 0 AND 1 AS asked";
    let asked = run(&[
        "sql",
        "--ephemeral",
        "--format",
        "csv",
        "--model",
        "mine",
        "-c",
        "SET safeguard.mode = 'score'",
        "-c",
        sql,
    ]);
    assert!(
        text(&asked.stdout) == "asked\nt\n",
        "{} {}",
        text(&asked.stdout),
        text(&asked.stderr)
    );
    for args in [
        &["sql", "--ephemeral", "--model", "yours", "-c", "SELECT 1"][..],
        &["model", "verify", "yours"],
    ] {
        let unknown = run(args);
        assert_eq!(unknown.status.code(), Some(1));
        let said = text(&unknown.stderr);
        assert!(
            said.contains(
                "42704: no model \"yours\": it is neither a folder nor one of nano, mine in "
            ),
            "{said}"
        );
    }
}

#[test]
fn a_model_too_large_for_memory_is_refused_with_the_numbers() {
    use safeguard::model::memory;
    let config = Shape::B120.config(Some(500)).expect("a config");
    let needs = memory::needed(&config);
    let refused = memory::check(needs, Some(16_000_000_000))
        .expect_err("refused")
        .to_string();
    assert!(refused.contains("GB of memory"), "{refused}");
    assert!(refused.ends_with("16.0 GB are available"), "{refused}");
    if !cfg!(target_os = "linux") {
        return;
    }
    // A folder of its config alone: what does not fit is told before anything is opened.
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(
        dir.path().join("config.json"),
        Shape::B120.config_json(Some(500)),
    )
    .expect("written");
    let model = dir.path().to_str().expect("a name");
    let run = |more: &[&str]| {
        let args = [
            &["sql", "--ephemeral", "-c", "SELECT 1", "--model", model],
            more,
        ]
        .concat();
        text(&safeguard(&args, dir.path()).stderr)
    };
    let said = run(&[]);
    assert!(
        said.contains("53200: the model needs ") && said.contains("--allow-swap"),
        "{said}"
    );
    let said = run(&["--allow-swap"]);
    assert!(said.contains("has neither model.safetensors nor"), "{said}");
}
