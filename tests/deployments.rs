//! What the examples of deployments give to the program: every flag, key, variable and port is one that it knows; and what
//! the README says that they can do.
//!
//! Reads the YAML of `examples/compose` and `examples/kubernetes`. Images of others and the options of orchestrators are
//! not looked at, but that what refers to a port by its name finds one.

use safeguard::config::{ServeConfig, ServeOptions};
use serde::Deserialize;
use serde_norway::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The image that holds the program.
const IMAGE: &str = "safeguard-sql";

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(examples().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every document of a file, with what it merges.
fn documents(path: &str) -> Vec<Value> {
    let text = text(path);
    let read = |document| {
        let mut value = Value::deserialize(document).unwrap_or_else(|e| panic!("{path}: {e}"));
        value
            .apply_merge()
            .unwrap_or_else(|e| panic!("{path}: {e}"));
        value
    };
    serde_norway::Deserializer::from_str(&text)
        .map(read)
        .collect()
}

/// Every mapping within.
fn mappings(value: &Value) -> Vec<&Value> {
    let mut found = Vec::new();
    match value {
        Value::Mapping(all) => {
            found.push(value);
            found.extend(all.values().flat_map(mappings));
        }
        Value::Sequence(all) => found.extend(all.iter().flat_map(mappings)),
        _ => {}
    }
    found
}

fn words(value: &Value) -> Vec<String> {
    let all = value.as_sequence().into_iter().flatten();
    all.filter_map(|word| word.as_str().map(str::to_owned))
        .collect()
}

/// What runs the program: services of compose, containers of Kubernetes.
fn ours(documents: &[Value]) -> Vec<&Value> {
    let all = documents.iter().flat_map(mappings);
    all.filter(|part| part.get("image").and_then(Value::as_str) == Some(IMAGE))
        .collect()
}

/// Names of variables, in both spellings.
fn variables(part: &Value) -> Vec<String> {
    let name = |value: &Value| value.as_str().map(str::to_owned);
    let compose = part.get("environment").and_then(Value::as_mapping);
    let compose = compose
        .into_iter()
        .flat_map(|all| all.keys())
        .filter_map(name);
    let kubernetes = part.get("env").and_then(Value::as_sequence);
    let kubernetes = kubernetes.into_iter().flatten();
    compose
        .chain(kubernetes.filter_map(|one| name(one.get("name")?)))
        .collect()
}

/// Calls of the program in a script: what stands behind its name, up to the end of the command.
fn calls(script: &str) -> Vec<Vec<String>> {
    let commands = script.split(['\n', '|', ';', '&']);
    let call = |command: &str| {
        let mut words = command
            .split_whitespace()
            .skip_while(|word| *word != "safeguard");
        words.next()?;
        Some(words.map(str::to_owned).collect())
    };
    commands
        .filter(|command| !command.trim_start().starts_with('#'))
        .filter_map(call)
        .collect()
}

fn help(subcommands: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_safeguard"))
        .args(subcommands)
        .arg("--help")
        .output()
        .unwrap();
    assert!(output.status.success(), "safeguard {subcommands:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Fails where a call has a flag that its subcommand has not.
fn is_known(call: &[String]) {
    let lower = |word: &&String| word.bytes().all(|b| b.is_ascii_lowercase());
    // Up to two words: `serve`, `policy publish`.
    let nested = ["policy", "user", "job", "model"].contains(&call[0].as_str());
    let subcommands: Vec<String> = call
        .iter()
        .take_while(lower)
        .take(1 + usize::from(nested))
        .cloned()
        .collect();
    assert!(!subcommands.is_empty(), "{call:?}");
    let help = help(&subcommands);
    let known: BTreeSet<&str> = help
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with("--"))
        .collect();
    for flag in call.iter().filter(|word| word.starts_with("--")) {
        let flag = flag.split('=').next().unwrap();
        assert!(known.contains(flag), "{flag} in {call:?}");
    }
}

/// The ports of a settings file that the program takes as it is, once there is a user.
fn ports(path: &str) -> (u64, u64) {
    let options = ServeOptions::read(&examples().join(path)).unwrap();
    let config = ServeConfig::new(options).unwrap();
    config.may_listen(1).unwrap();
    let metrics = config.metrics_listen.expect("metrics are served");
    (config.listen.port().into(), metrics.port().into())
}

#[test]
fn what_is_given_to_the_program_is_what_it_knows() {
    let config = include_str!("../src/config.rs");
    let mut called = 0;
    for path in [
        "compose/compose.yaml",
        "kubernetes/init.yaml",
        "kubernetes/servers.yaml",
    ] {
        let documents = documents(path);
        let parts = ours(&documents);
        assert!(!parts.is_empty(), "{path}");
        for part in parts {
            for variable in variables(part) {
                if variable.starts_with("SAFEGUARD_") {
                    assert!(config.contains(&format!("\"{variable}\"")), "{variable}");
                }
            }
            for key in ["command", "args", "entrypoint"] {
                let words = part.get(key).map(words).unwrap_or_default();
                let all = match words.first().map(String::as_str) {
                    Some("serve") => vec![words],
                    _ => words.iter().flat_map(|script| calls(script)).collect(),
                };
                called += all.len();
                all.iter().for_each(|call| is_known(call));
            }
        }
    }
    let script = calls(&text("compose/init.sh"));
    assert!(script.len() >= 3 && called >= 5, "{called}");
    script.iter().for_each(|call| is_known(call));
    let entry = text("compose/Dockerfile");
    assert!(entry.contains("CMD [\"serve\", \"--config\", \"/etc/safeguard/serve.toml\"]"));
}

#[test]
fn ports_are_those_that_the_program_listens_on() {
    let (sql, metrics) = ports("compose/serve.toml");
    let documents = documents("compose/compose.yaml");
    let servers: Vec<&Value> = documents[0]["services"]
        .as_mapping()
        .unwrap()
        .iter()
        .filter(|(name, _)| name.as_str().unwrap().starts_with("server-"))
        .map(|(_, service)| service)
        .collect();
    assert_eq!(servers.len(), 3);
    for server in servers {
        let inner = |port: String| port.rsplit(':').next().unwrap().parse().unwrap();
        let published: Vec<u64> = words(&server["ports"]).into_iter().map(inner).collect();
        assert_eq!(published, [sql, metrics]);
        let probe = words(&server["healthcheck"]["test"]).join(" ");
        assert!(probe.contains(&format!("/127.0.0.1/{metrics} ")), "{probe}");
    }
    let (sql, metrics) = ports("kubernetes/serve.toml");
    let mut offered = BTreeSet::new();
    let mut wanted = BTreeSet::new();
    for path in ["kubernetes/servers.yaml", "kubernetes/vllm.yaml"] {
        let documents = self::documents(path);
        for part in documents.iter().flat_map(mappings) {
            let name = part.get("name").and_then(Value::as_str);
            let port = part.get("containerPort").and_then(Value::as_u64);
            offered.extend(name.zip(port).map(|(name, port)| (name.to_owned(), port)));
            let target = part.get("targetPort").and_then(Value::as_str);
            let probed = part.get("httpGet").and_then(|get| get["port"].as_str());
            wanted.extend(target.or(probed).map(str::to_owned));
        }
    }
    let expected = [("http", 8000), ("metrics", metrics), ("sql", sql)];
    let expected = expected.map(|(name, port)| (name.to_owned(), port));
    assert_eq!(offered.iter().cloned().collect::<Vec<_>>(), expected);
    let named: BTreeSet<String> = offered.into_iter().map(|(name, _)| name).collect();
    assert_eq!(wanted, named);
}

#[test]
fn what_the_manifests_name_is_there() {
    let servers = documents("kubernetes/servers.yaml");
    let kinds: Vec<&str> = servers
        .iter()
        .map(|d| d["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        ["StatefulSet", "Service", "Service", "PodDisruptionBudget"]
    );
    let labels = &servers[0]["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&servers[0]["spec"]["selector"]["matchLabels"], labels);
    for service in &servers[1..3] {
        assert_eq!(&service["spec"]["selector"], labels);
    }
    assert_eq!(&servers[3]["spec"]["selector"]["matchLabels"], labels);
    let replicas = servers[0]["spec"]["replicas"].as_u64().unwrap();
    assert!(servers[3]["spec"]["minAvailable"].as_u64().unwrap() < replicas);
    let kustomization = &documents("kubernetes/kustomization.yaml")[0];
    for file in words(&kustomization["resources"]) {
        documents(&format!("kubernetes/{file}"));
    }
    // Every replica of the model by its name, and no other.
    let model = ServeOptions::read(&examples().join("kubernetes/serve.toml"))
        .unwrap()
        .model;
    let vllm = documents("kubernetes/vllm.yaml");
    let replicas = vllm[0]["spec"]["replicas"].as_u64().unwrap();
    let names: Vec<String> = (0..replicas)
        .map(|n| format!("http://vllm-{n}.vllm:8000/v1"))
        .collect();
    assert_eq!(model.unwrap(), names.join(","));
    // What containers take from the Secret is what the example says is in it.
    let secret = &documents("kubernetes/secret.example.yaml")[0];
    for path in ["kubernetes/init.yaml", "kubernetes/servers.yaml"] {
        let documents = self::documents(path);
        let parts = documents.iter().flat_map(mappings);
        for of in parts.filter_map(|part| part.get("secretKeyRef")) {
            assert_eq!(of["name"], secret["metadata"]["name"]);
            assert!(secret["stringData"].get(&of["key"]).is_some(), "{of:?}");
        }
    }
}

#[test]
fn the_readme_says_what_the_formula_of_capacity_gives() {
    let script = examples().join("capacity.py");
    let Ok(output) = Command::new("python3").arg(script).output() else {
        crate::clients::skip("python3");
        return;
    };
    let output = String::from_utf8(output.stdout).unwrap();
    let readme = include_str!("../README.md");
    let told = output
        .lines()
        .take_while(|line| !line.contains("| reason, "));
    let missing: Vec<&str> = told.filter(|line| !readme.contains(line)).collect();
    assert!(
        output.lines().count() > 8 && missing.is_empty(),
        "{missing:?}"
    );
}
