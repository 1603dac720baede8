//! A server in this process that speaks OpenAI's protocol as vLLM and llama-server do, and fails as they do.
//!
//! It reads prompts as a gpt-oss server does: token ids or text for `completions`, messages for chat; a text with the
//! word `bad` violates. It serves many connections at once on a port that the system chooses, keeps them open, streams
//! where it is asked to, and remembers what it was asked and how many it had in hand.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The model that it has.
pub const MODEL: &str = "openai/gpt-oss-safeguard-20b";

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A status, with a Retry-After in seconds.
    Status(u16, Option<&'static str>),
    /// The connection ends in the middle of the reply.
    Cut,
    /// This body, with status 200.
    Body(String),
    /// No end: a chunk again and again.
    Endless,
    /// What the model says, analysis and final, and why it stopped.
    Says(&'static str, &'static str, &'static str),
    /// As another model.
    Model(&'static str),
}

/// What it can do.
#[derive(Debug, Clone)]
pub struct Skills {
    pub ids: bool,
    pub text: bool,
    pub chat: bool,
    pub logprobs: bool,
    pub stream: bool,
    /// Whether a connection serves one request, and closes when it is asked for another.
    pub once: bool,
    pub models: Vec<&'static str>,
    pub key: Option<&'static str>,
    pub latency: Duration,
}

impl Default for Skills {
    fn default() -> Skills {
        Skills {
            ids: true,
            text: true,
            chat: true,
            logprobs: true,
            stream: true,
            once: false,
            models: vec![MODEL],
            key: None,
            latency: Duration::ZERO,
        }
    }
}

/// One question that reached the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub policy: String,
    pub text: String,
    pub body: Value,
    pub path: String,
}

#[derive(Default)]
struct Seen {
    asked: Mutex<Vec<Asked>>,
    answered: AtomicUsize,
    faults: Mutex<Vec<Fault>>,
    by_text: Mutex<HashMap<String, Fault>>,
    in_hand: AtomicUsize,
    most: AtomicUsize,
    cut_short: AtomicUsize,
    dead: AtomicBool,
}

/// The server; it ends when it is dropped or killed.
pub struct Double {
    pub address: String,
    seen: Arc<Seen>,
    end: watch::Sender<bool>,
}

impl Double {
    pub async fn start(skills: Skills) -> Double {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Seen::default());
        let (end, ended) = watch::channel(false);
        let (skills, kept) = (Arc::new(skills), Arc::clone(&seen));
        let mut stop = ended.clone();
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    _ = stop.changed() => return,
                    accepted = listener.accept() => match accepted { Ok((stream, _)) => stream, Err(_) => return },
                };
                let (skills, seen, mut stop) =
                    (Arc::clone(&skills), Arc::clone(&kept), ended.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = stop.changed() => {}
                        _ = serve(stream, &skills, &seen) => {}
                    }
                });
            }
        });
        Double {
            address: format!("http://127.0.0.1:{port}/v1"),
            seen,
            end,
        }
    }

    /// Cuts every connection and accepts no other.
    pub fn kill(&self) {
        self.seen.dead.store(true, SeqCst);
        let _ = self.end.send(true);
    }

    /// The next questions fail so, in this order.
    pub fn fail(&self, faults: &[Fault]) {
        self.seen
            .faults
            .lock()
            .unwrap()
            .extend(faults.iter().rev().cloned());
    }

    /// Every question about this text is answered so.
    pub fn fail_text(&self, text: &str, fault: Fault) {
        let mut faults = self.seen.by_text.lock().unwrap();
        faults.insert(text.to_owned(), fault);
    }

    /// Questions since the last call, those of a probe left out.
    pub fn asked(&self) -> Vec<Asked> {
        let mut asked = std::mem::take(&mut *self.seen.asked.lock().unwrap());
        asked.retain(|asked| !asked.policy.contains("day, night"));
        asked
    }

    /// Questions that it answered to the end, probes included.
    pub fn answered(&self) -> usize {
        self.seen.answered.load(SeqCst)
    }

    /// Questions in hand now, and the most at once.
    pub fn in_hand(&self) -> (usize, usize) {
        (self.seen.in_hand.load(SeqCst), self.seen.most.load(SeqCst))
    }

    /// Replies whose reader went away.
    pub fn cut_short(&self) -> usize {
        self.seen.cut_short.load(SeqCst)
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.kill();
    }
}

struct InHand<'a>(&'a Seen);

impl<'a> InHand<'a> {
    fn new(seen: &'a Seen) -> InHand<'a> {
        let now = seen.in_hand.fetch_add(1, SeqCst) + 1;
        seen.most.fetch_max(now, SeqCst);
        InHand(seen)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, SeqCst);
    }
}

async fn serve(stream: TcpStream, skills: &Skills, seen: &Seen) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    for served in 0.. {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut length, mut key) = (0, None);
        loop {
            let mut header = String::new();
            stream.read_line(&mut header).await?;
            let header = header.trim();
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(':').unwrap_or((header, ""));
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap_or(0),
                "authorization" => key = value.trim().strip_prefix("Bearer ").map(str::to_owned),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if skills.once && served > 0 {
            return Ok(());
        }
        if skills
            .key
            .is_some_and(|wanted| key.as_deref() != Some(wanted))
        {
            let said = format!("no such key: {}", key.unwrap_or_default());
            plain(
                &mut stream,
                401,
                None,
                &json!({"error": {"message": said}}).to_string(),
            )
            .await?;
            continue;
        }
        if !answer(&mut stream, &path, body, skills, seen).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether the connection stays open.
async fn answer(
    stream: &mut BufReader<TcpStream>,
    path: &str,
    body: Value,
    skills: &Skills,
    seen: &Seen,
) -> std::io::Result<bool> {
    if path == "/v1/models" {
        let models: Vec<Value> = skills.models.iter().map(|id| json!({"id": id})).collect();
        plain(stream, 200, None, &json!({"data": models}).to_string()).await?;
        return Ok(true);
    }
    let Some((policy, text)) = question(path, &body, skills) else {
        let status = if path.ends_with("completions") {
            400
        } else {
            404
        };
        let said = json!({"error": {"message": "not served here"}});
        plain(stream, status, None, &said.to_string()).await?;
        return Ok(true);
    };
    let probe = policy.contains("day, night");
    let asked = Asked {
        policy,
        text: text.clone(),
        body: body.clone(),
        path: path.to_owned(),
    };
    let _in_hand = (!probe).then(|| InHand::new(seen));
    seen.asked.lock().unwrap().push(asked);
    if !probe && !skills.latency.is_zero() {
        // A server notices that nobody waits any more.
        let left = tokio::time::timeout(skills.latency, stream.fill_buf()).await;
        if left.is_ok() {
            seen.cut_short.fetch_add(1, SeqCst);
            return Ok(false);
        }
    }
    let next = || match probe {
        true => None,
        false => seen.faults.lock().unwrap().pop(),
    };
    let fault = next().or_else(|| seen.by_text.lock().unwrap().get(&text).cloned());
    let open = reply(stream, path, &body, (skills, fault, &text)).await;
    match open {
        Ok(true) => seen.answered.fetch_add(1, SeqCst),
        _ => seen.cut_short.fetch_add(1, SeqCst),
    };
    open
}

/// Policy and text of a prompt that it can read.
fn question(path: &str, body: &Value, skills: &Skills) -> Option<(String, String)> {
    let between = |all: &str, begin: &str| {
        let (_, rest) = all.split_once(begin)?;
        Some(rest.split("<|end|>").next()?.to_owned())
    };
    if path == "/v1/chat/completions" && skills.chat {
        let message = |at: usize| Some(body["messages"][at]["content"].as_str()?.to_owned());
        return Some((message(0)?, message(1)?));
    }
    let prompt = match &body["prompt"] {
        Value::Array(ids) if skills.ids => {
            let ids: Vec<u32> = ids
                .iter()
                .map(|id| id.as_u64().unwrap_or(0) as u32)
                .collect();
            super::tokenizer().decode(&ids)
        }
        Value::String(text) if skills.text => text.clone(),
        _ => return None,
    };
    if path != "/v1/completions" {
        return None;
    }
    Some((
        between(&prompt, "# Instructions\n\n")?,
        between(&prompt, "<|start|>user<|message|>")?,
    ))
}

/// Tokens of what was sent, as a server with the same tokenizer counts them.
fn counted(body: &Value) -> usize {
    match &body["prompt"] {
        Value::Array(ids) => ids.len(),
        Value::String(text) => super::control_ids(text),
        _ => 99,
    }
}

async fn reply(
    stream: &mut BufReader<TcpStream>,
    path: &str,
    body: &Value,
    (skills, fault, text): (&Skills, Option<Fault>, &str),
) -> std::io::Result<bool> {
    let bad = text.contains("bad");
    let label = if bad { "violates" } else { "allowed" };
    let analysis = format!("It says {text}.");
    let (mut said, mut model) = (
        (&*analysis, label, "stop"),
        body["model"].as_str().unwrap_or(MODEL),
    );
    match &fault {
        Some(Fault::Status(status, after)) => {
            let words = json!({"error": {"message": "not now"}});
            plain(stream, *status, *after, &words.to_string()).await?;
            return Ok(true);
        }
        Some(Fault::Body(body)) => {
            plain(stream, 200, None, body).await?;
            return Ok(true);
        }
        Some(Fault::Cut) => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{\"choices\"")
                .await?;
            return Ok(false);
        }
        Some(Fault::Endless) => {
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head).await?;
            let mut beat = tokio::time::interval(Duration::from_millis(10));
            loop {
                beat.tick().await;
                stream.write_all(b"6\r\n: on\n\n\r\n").await?;
            }
        }
        Some(Fault::Says(analysis, last, finish)) => said = (analysis, last, finish),
        Some(Fault::Model(other)) => model = other,
        None => {}
    }
    let chat = path.ends_with("chat/completions");
    let usage = json!({"prompt_tokens": counted(body), "completion_tokens": 7});
    let next = body["logprobs"].is_number() && skills.logprobs;
    let events = events((chat, next, bad), said, body);
    let streamed = body["stream"] == json!(true) && skills.stream;
    let wrap = |choice: &Value| json!({"model": model, "choices": [choice]});
    if !streamed {
        let mut whole = wrap(&merged(&events, chat));
        whole["usage"] = usage;
        plain(stream, 200, None, &whole.to_string()).await?;
        return Ok(true);
    }
    let mut lines: Vec<String> = events.iter().map(|event| wrap(event).to_string()).collect();
    lines.push(json!({"model": model, "choices": [], "usage": usage}).to_string());
    lines.push("[DONE]".to_owned());
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).await?;
    for line in lines {
        let line = format!("data: {line}\n\n");
        let chunk = format!("{:x}\r\n{line}\r\n", line.len());
        stream.write_all(chunk.as_bytes()).await?;
    }
    stream.write_all(b"0\r\n\r\n").await?;
    Ok(true)
}

/// A reply in pieces.
fn events(
    (chat, next, bad): (bool, bool, bool),
    (analysis, last, finish): (&str, &str, &str),
    body: &Value,
) -> Vec<Value> {
    if chat {
        return vec![
            json!({"delta": {"role": "assistant", "reasoning_content": analysis}}),
            json!({"delta": {"content": last}, "finish_reason": finish}),
        ];
    }
    if next {
        let first = next_tokens(body, bad);
        return vec![json!({"text": "a", "finish_reason": "length",
            "logprobs": {"tokens": ["a"], "top_logprobs": [first]}})];
    }
    let forced = match &body["prompt"] {
        Value::Array(ids) => ids.last() == Some(&json!(200_008)),
        prompt => prompt
            .as_str()
            .is_some_and(|prompt| prompt.ends_with("<|message|>")),
    };
    let opens = if forced {
        ""
    } else {
        "<|channel|>analysis<|message|>"
    };
    let header = "<|end|><|start|>assistant<|channel|>final<|message|>";
    let said = match finish {
        "malformed" => format!("{opens}{analysis}<|end|><|start|>assistantassistant{last}"),
        _ => format!("{opens}{analysis}{header}{last}"),
    };
    let finish = if finish == "malformed" {
        "stop"
    } else {
        finish
    };
    let (one, two) = said.split_at(opens.len());
    vec![
        json!({"text": one, "finish_reason": null}),
        json!({"text": two, "finish_reason": finish}),
    ]
}

/// The most probable tokens behind the header of the answer and what of a label stands behind it.
fn next_tokens(body: &Value, bad: bool) -> Value {
    let prompt = match &body["prompt"] {
        Value::Array(ids) => {
            let ids: Vec<u32> = ids
                .iter()
                .map(|id| id.as_u64().unwrap_or(0) as u32)
                .collect();
            super::tokenizer().decode(&ids)
        }
        prompt => prompt.as_str().unwrap_or_default().to_owned(),
    };
    let path = prompt.rsplit("<|message|>").next().unwrap_or_default();
    let mut told = json!({"other": -9.0});
    for (label, yes) in [("allowed", !bad), ("violates", bad)] {
        let ids = super::tokenizer().encode_ordinary(label);
        let at = (0..ids.len()).find(|&n| super::tokenizer().decode(&ids[..n]) == path);
        if let Some(at) = at {
            let token = super::tokenizer().decode(&ids[at..=at]);
            told[token] = json!(if at > 0 || yes { -0.1 } else { -3.0 });
        }
    }
    told
}

/// The pieces as one choice.
fn merged(events: &[Value], chat: bool) -> Value {
    let join = |path: &str| -> String {
        let parts = events
            .iter()
            .filter_map(|event| event.pointer(path)?.as_str());
        parts.collect()
    };
    let mut whole = events.last().cloned().unwrap_or_default();
    match chat {
        true => {
            whole["message"] = json!({"content": join("/delta/content"), "reasoning_content": join("/delta/reasoning_content")});
            whole.as_object_mut().expect("an object").remove("delta");
        }
        false => whole["text"] = json!(join("/text")),
    }
    whole
}

async fn plain(
    stream: &mut BufReader<TcpStream>,
    status: u16,
    after: Option<&str>,
    body: &str,
) -> std::io::Result<()> {
    let after = after.map_or(String::new(), |after| format!("retry-after: {after}\r\n"));
    let head = format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\n{after}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await
}
