//! A hub in this process, for pulls: it serves files, cuts connections, spoils bytes, and remembers what it was asked.
//!
//! It speaks as much HTTP/1.1 as a pull needs, one request a connection, on a port that the system chooses. A connection
//! that it cuts is closed after fewer bytes than were announced.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// The one model that it has.
pub const REPOSITORY: &str = "openai/random";

/// A file in the repository.
#[derive(Debug, Clone)]
pub struct Blob {
    pub name: String,
    pub bytes: Vec<u8>,
    large: bool,
}

impl Blob {
    /// A file kept in git.
    pub fn git(name: &str, bytes: &[u8]) -> Blob {
        Blob {
            name: name.to_owned(),
            bytes: bytes.to_vec(),
            large: false,
        }
    }

    /// A file kept beside git.
    pub fn large(name: &str, bytes: &[u8]) -> Blob {
        Blob {
            large: true,
            ..Blob::git(name, bytes)
        }
    }

    fn described(&self) -> Value {
        let hex = |context: Context| -> String {
            let digest = context.finish();
            digest
                .as_ref()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        };
        let size = self.bytes.len();
        let mut git = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        git.update(format!("blob {size}\0").as_bytes());
        git.update(&self.bytes);
        let mut described = json!({"rfilename": self.name, "size": size, "blobId": hex(git)});
        if self.large {
            let mut sha = Context::new(&SHA256);
            sha.update(&self.bytes);
            described["lfs"] = json!({"sha256": hex(sha), "size": size, "pointerSize": 135});
        }
        described
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    path: String,
    pub token: Option<String>,
    from: Option<u64>,
}

/// What goes wrong with a file.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The connection ends after so many bytes.
    Cut(usize),
    /// This status instead of the file.
    Status(u16),
    /// A byte is another one.
    Spoilt,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    faults: HashMap<String, Vec<Fault>>,
    ignores_ranges: bool,
    redirect: Option<String>,
}

/// The hub; it ends with the test's process.
pub struct Double {
    blobs: Arc<Vec<Blob>>,
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Double {
    pub fn start(blobs: Vec<Blob>) -> Double {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (blobs, state) = (Arc::new(blobs), Arc::default());
        let double = Double {
            blobs: Arc::clone(&blobs),
            state: Arc::clone(&state),
            port,
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that went away is no concern of a hub's.
                let _ = answer(stream, &blobs, &state);
            }
        });
        double
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn blob(&self, name: &str) -> &Blob {
        self.blobs
            .iter()
            .find(|blob| blob.name == name)
            .expect("a blob")
    }

    /// The next `times` answers about a file end after `bytes`.
    pub fn cut(&self, file: &str, times: usize, bytes: usize) {
        self.fault(file, times, Fault::Cut(bytes));
    }

    /// The next `times` answers about a file, behind those said before, are this status.
    pub fn fail(&self, file: &str, times: usize, status: u16) {
        self.fault(file, times, Fault::Status(status));
    }

    /// The next `times` answers about a file have a wrong byte.
    pub fn spoil(&self, file: &str, times: usize) {
        self.fault(file, times, Fault::Spoilt);
    }

    fn fault(&self, file: &str, times: usize, fault: Fault) {
        let mut state = self.state();
        let faults = state.faults.entry(file.to_owned()).or_default();
        faults.extend(std::iter::repeat_n(fault, times));
    }

    /// Files are given from their beginning whatever is asked for.
    pub fn ignore_ranges(&self) {
        self.state().ignores_ranges = true;
    }

    /// Files lie on another host.
    pub fn redirect_to(&self, other: &Double) {
        // Another name of this machine, so that it counts as another host.
        self.state().redirect = Some(format!("http://localhost:{}", other.port));
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// Where each request for a file began; `None` for those of the whole.
    pub fn ranges(&self, file: &str) -> Vec<Option<u64>> {
        let asked = self.asked();
        let about = asked
            .iter()
            .filter(|asked| asked.path.ends_with(&format!("/{file}")));
        about.map(|asked| asked.from).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }
}

fn answer(stream: TcpStream, blobs: &[Blob], state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    let mut headers = HashMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let from = headers.get("range").and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse::<u64>()
            .ok()
    });
    let mut state = state.lock().expect("no panic");
    state.asked.push(Asked {
        path: path.clone(),
        token: headers.get("authorization").cloned(),
        from,
    });
    if path.starts_with("/api/") {
        return describe(stream, &path, blobs);
    }
    if let Some(elsewhere) = &state.redirect {
        let head = format!("HTTP/1.1 302 Found\r\nlocation: {elsewhere}{path}\r\n");
        return send(stream, &head, b"", 0);
    }
    let file = path
        .split("/resolve/")
        .nth(1)
        .and_then(|rest| rest.split_once('/'));
    let Some(blob) = file.and_then(|(_, name)| blobs.iter().find(|blob| blob.name == name)) else {
        return send(stream, "HTTP/1.1 404 Not Found\r\n", b"", 0);
    };
    let faults = state.faults.entry(blob.name.clone()).or_default();
    let fault = (!faults.is_empty()).then(|| faults.remove(0));
    let mut bytes = blob.bytes.clone();
    if matches!(fault, Some(Fault::Spoilt)) {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }
    if let Some(Fault::Status(status)) = fault {
        return send(stream, &format!("HTTP/1.1 {status} So\r\n"), b"", 0);
    }
    let from = from.filter(|_| !state.ignores_ranges).unwrap_or(0) as usize;
    drop(state);
    let rest = &bytes[from.min(bytes.len())..];
    let head = match from {
        0 => "HTTP/1.1 200 OK\r\n".to_owned(),
        _ => format!(
            "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {from}-{}/{}\r\n",
            bytes.len() - 1,
            bytes.len()
        ),
    };
    let sent = match fault {
        Some(Fault::Cut(cut)) => cut.min(rest.len()),
        _ => rest.len(),
    };
    send(stream, &head, rest, sent)
}

fn describe(stream: TcpStream, path: &str, blobs: &[Blob]) -> std::io::Result<()> {
    let all: Vec<Value> = blobs.iter().map(Blob::described).collect();
    let refuse =
        |status: &str, code: &str| format!("HTTP/1.1 {status}\r\nx-error-code: {code}\r\n");
    let (head, body) = match path {
        "/api/models/openai/random/revision/main?blobs=true" => {
            let commit = blake3::hash(json!(all).to_string().as_bytes()).to_hex();
            let body = json!({"id": REPOSITORY, "sha": &commit[..40], "siblings": all});
            ("HTTP/1.1 200 OK\r\n".to_owned(), body.to_string())
        }
        "/api/models/openai/empty/revision/main?blobs=true" => {
            let body = json!({"sha": "0123", "siblings": all[..1]});
            ("HTTP/1.1 200 OK\r\n".to_owned(), body.to_string())
        }
        _ if path.starts_with("/api/models/openai/random/") => {
            (refuse("404 Not Found", "RevisionNotFound"), String::new())
        }
        _ if path.starts_with("/api/models/openai/gated/") => {
            (refuse("403 Forbidden", "GatedRepo"), String::new())
        }
        _ => (refuse("401 Unauthorized", "RepoNotFound"), String::new()),
    };
    send(stream, &head, body.as_bytes(), body.len())
}

/// Announces all of `body` and sends the first `sent` bytes of it.
fn send(mut stream: TcpStream, head: &str, body: &[u8], sent: usize) -> std::io::Result<()> {
    let end = format!(
        "content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(end.as_bytes())?;
    stream.write_all(&body[..sent])
}
