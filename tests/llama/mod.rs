//! Models on a real llama-server: llama.cpp's own, as its Python package has it, with safeguard-nano behind it.
//!
//! Without the package on this machine the tests are reported as skipped, unless `SAFEGUARD_CLIENTS=require`;
//! `.ci/clients` installs and requires it. One model has the released vocabulary and is asked by token ids, the other
//! its own and is asked by messages.

mod gate;
mod replicas;
mod ways;

use crate::clients::{python, skip};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// What the server with the released vocabulary calls its model.
const NAME: &str = "gpt-oss-safeguard-nano";

/// Python with the server's package, if there is one.
fn llama() -> Option<PathBuf> {
    let has = |python: &PathBuf| {
        let found = Command::new(python)
            .args(["-c", "import xllamacpp, gguf, numpy"])
            .output();
        found.is_ok_and(|found| found.status.success())
    };
    let found = python().filter(has);
    if found.is_none() {
        skip("llama-server (the Python package xllamacpp)");
    }
    found
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn run(command: &mut Command) -> Output {
    let done = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}\n{said}");
    done
}

/// Writes the GGUF file of a model's folder beside it.
fn gguf(python: &Path, model: &Path, file: &Path) {
    let mut command = Command::new(python);
    run(command
        .arg(here("benches/peers/to_gguf.py"))
        .arg(model)
        .arg(file));
}

/// safeguard-nano in the released vocabulary, in a folder: `model` in the released layout, `model.gguf`.
fn released(python: &Path, folder: &Path) {
    let base = tiktoken_rs::o200k_base_singleton();
    let ranks: String = (0..)
        .map_while(|id| Some((id, base.decode_bytes(&[id]).ok()?)))
        .filter(|(_, bytes)| *bytes != b"<|endoftext|>")
        .map(|(id, bytes)| format!("{} {id}\n", base64(&bytes)))
        .collect();
    std::fs::write(folder.join("ranks"), ranks).unwrap();
    let model = folder.join("model");
    let mut command = Command::new(python);
    let command = command.arg(here("tests/llama/vocabulary.py"));
    run(command
        .arg(here("src/backend/nano"))
        .arg(folder.join("ranks"))
        .arg(&model));
    gguf(python, &model, &folder.join("model.gguf"));
    // The program has this vocabulary of its own.
    std::fs::remove_file(model.join("tokenizer.json")).unwrap();
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A running server; killed when it goes out of scope.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(python: &Path, gguf: &Path, name: &str, more: &[&str]) -> Server {
        let mut child = Command::new(python)
            .arg(here("tests/llama/serve.py"))
            .arg(gguf)
            .arg(name)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            line.unwrap()
                .strip_prefix("http://127.0.0.1:")?
                .parse()
                .ok()
        });
        let port = address.expect("the server does not start");
        Server { child, port }
    }

    /// As the kernel does when memory is short.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `safeguard ARGUMENTS..` in a folder: what it printed and what it told.
async fn safeguard(folder: &Path, arguments: &[&str]) -> (String, String) {
    let done = tokio::process::Command::new(env!("CARGO_BIN_EXE_safeguard"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let said = |bytes| String::from_utf8(bytes).unwrap();
    let (out, told) = (said(done.stdout), said(done.stderr));
    assert!(done.status.success(), "{arguments:?}\n{out}\n{told}");
    (out, told)
}

/// So many different short texts of all kinds, half of which mention something that policy `keywords` lists.
fn texts(count: usize) -> Vec<String> {
    let listed = ["money", "credit", "account", "bank", "insurance"];
    let others = ["soup", "weather", "garden", "music", "train"];
    let frames = [
        "please tell me about the {} before we meet",
        "they asked for your {} again last night",
        "i have never seen a {} like this one",
        "what happened to the {} of our neighbour",
    ];
    let text = |n: usize| {
        let words = if n.is_multiple_of(2) {
            &listed
        } else {
            &others
        };
        let said = frames[n / 2 % 4].replace("{}", words[n / 8 % 5]);
        format!("{said}, number {n}")
    };
    (1..=count).map(text).collect()
}

/// A CSV file of texts under the numbers from 1 on.
fn write_rows(path: &Path, texts: &[String]) {
    let rows: String = (1..)
        .zip(texts)
        .map(|(id, text)| format!("{id},\"{text}\"\n"))
        .collect();
    std::fs::write(path, format!("id,body\n{rows}")).unwrap();
}
