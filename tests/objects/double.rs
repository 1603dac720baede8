//! An object store in this process that speaks S3 as far as it is used here, checks every signature, and fails when told to.
//!
//! Source: Amazon S3 API reference; "Authenticating Requests (AWS Signature Version 4)".

use ring::digest::{SHA256, digest};
use ring::hmac::{HMAC_SHA256, Key, sign};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Who may ask.
pub const KEY_ID: &str = "AKIATEST";

/// What becomes of a request instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This status and code.
    Status(u16, &'static str),
    /// The connection ends.
    Cut,
}

type Bucket = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
struct Inside {
    buckets: BTreeMap<String, Bucket>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    begun: u64,
    /// Method and target of each request.
    asked: Vec<String>,
    /// Requests that are answered before the fault; then all fail.
    fails: Option<(usize, Fault)>,
    /// The same once: the next of this method fails.
    once: Option<(&'static str, Fault)>,
}

/// The store, until it is dropped.
pub struct Double {
    inside: Arc<Mutex<Inside>>,
    secret: Arc<str>,
    pub address: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Double {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Double {
    /// With these buckets, for who knows the secret.
    pub async fn start(secret: &str, buckets: &[&str]) -> Double {
        let inside = Arc::new(Mutex::new(Inside::default()));
        for bucket in buckets {
            let mut inside = inside.lock().unwrap();
            inside.buckets.insert((*bucket).to_owned(), Bucket::new());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let secret: Arc<str> = secret.into();
        let (shared, known) = (Arc::clone(&inside), Arc::clone(&secret));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, Arc::clone(&shared), Arc::clone(&known)));
            }
        });
        Double {
            inside,
            secret,
            address,
            task,
        }
    }

    /// The statement that lets a session in.
    pub fn secret(&self, name: &str) -> String {
        format!(
            "CREATE SECRET {name} (TYPE s3, KEY_ID '{KEY_ID}', SECRET '{}', ENDPOINT '{}', REGION 'test-1')",
            self.secret, self.address
        )
    }

    pub fn put(&self, bucket: &str, key: &str, bytes: impl Into<Vec<u8>>) {
        let mut inside = self.inside.lock().unwrap();
        let bucket = inside.buckets.get_mut(bucket).unwrap();
        bucket.insert(key.to_owned(), bytes.into());
    }

    pub fn remove(&self, bucket: &str, key: &str) {
        let mut inside = self.inside.lock().unwrap();
        inside.buckets.get_mut(bucket).unwrap().remove(key).unwrap();
    }

    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let inside = self.inside.lock().unwrap();
        inside.buckets[bucket].keys().cloned().collect()
    }

    /// Uploads that were begun and neither completed nor given up.
    pub fn uploads(&self) -> usize {
        self.inside.lock().unwrap().uploads.len()
    }

    /// The requests since the last call.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.inside.lock().unwrap().asked)
    }

    /// Every request fails after some; none with `None`.
    pub fn fail(&self, fails: Option<(usize, Fault)>) {
        self.inside.lock().unwrap().fails = fails;
    }

    /// The next request of this method fails, and those after it do not.
    pub fn fail_once(&self, method: &'static str, fault: Fault) {
        self.inside.lock().unwrap().once = Some((method, fault));
    }
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    raw_query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    assert!(
        !headers.contains_key("transfer-encoding"),
        "a length is sent"
    );
    let length = headers
        .get("content-length")
        .map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let (path, raw_query) = target.split_once('?').unwrap_or((&target, ""));
    let query = raw_query.split('&').filter(|pair| !pair.is_empty());
    let query = query.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), decoded(value))
    });
    Some(Request {
        method,
        path: path.to_owned(),
        query: query.collect(),
        raw_query: raw_query.to_owned(),
        headers,
        body,
    })
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                let digits = std::str::from_utf8(&digits).unwrap();
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

/// The code of what is wrong with a request's signature.
fn unsigned(request: &Request, secret: &str) -> Option<&'static str> {
    let Some(said) = request.headers.get("authorization") else {
        return Some("AccessDenied");
    };
    let part = |name: &str| {
        let rest = said.split_once(&format!("{name}=")).unwrap().1;
        rest.split(',').next().unwrap().trim()
    };
    let scope: Vec<&str> = part("Credential").split('/').collect();
    if scope[0] != KEY_ID {
        return Some("InvalidAccessKeyId");
    }
    if scope[2] != "test-1" {
        return Some("AuthorizationHeaderMalformed");
    }
    let signed = part("SignedHeaders");
    let headers: String = signed
        .split(';')
        .map(|name| format!("{name}:{}\n", request.headers[name]))
        .collect();
    let hash = &request.headers["x-amz-content-sha256"];
    if hash != "UNSIGNED-PAYLOAD" {
        assert_eq!(*hash, hex(digest(&SHA256, &request.body).as_ref()));
    }
    let mut pairs: Vec<String> = request
        .raw_query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|pair| {
            if pair.contains('=') {
                pair.to_owned()
            } else {
                format!("{pair}=")
            }
        })
        .collect();
    pairs.sort();
    let canonical = format!(
        "{}\n{}\n{}\n{headers}\n{signed}\n{hash}",
        request.method,
        request.path,
        pairs.join("&")
    );
    let day = scope[1..].join("/");
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{day}\n{}",
        request.headers["x-amz-date"],
        hex(digest(&SHA256, canonical.as_bytes()).as_ref())
    );
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in &scope[1..] {
        key = sign(&Key::new(HMAC_SHA256, &key), part.as_bytes())
            .as_ref()
            .to_vec();
    }
    let signature = hex(sign(&Key::new(HMAC_SHA256, &key), to_sign.as_bytes()).as_ref());
    (signature != part("Signature")).then_some("SignatureDoesNotMatch")
}

#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn ok(body: impl Into<Vec<u8>>) -> Answer {
        Answer {
            status: 200,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    fn error(status: u16, code: &str) -> Answer {
        let body = format!("<Error><Code>{code}</Code><Message>{code} it is</Message></Error>");
        Answer {
            status,
            ..Answer::ok(body)
        }
    }
}

async fn serve(stream: TcpStream, inside: Arc<Mutex<Inside>>, secret: Arc<str>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let fault = {
            let mut inside = inside.lock().unwrap();
            inside
                .asked
                .push(format!("{} {}", request.method, request.path));
            let once = inside.once;
            match (&mut inside.fails, once) {
                (Some((0, fault)), _) => Some(*fault),
                (Some((left, _)), _) => {
                    *left -= 1;
                    None
                }
                (None, Some((method, fault))) if method == request.method => {
                    inside.once = None;
                    Some(fault)
                }
                _ => None,
            }
        };
        let answer = match (fault, unsigned(&request, &secret)) {
            (Some(Fault::Cut), _) => return,
            (Some(Fault::Status(status, code)), _) => Answer::error(status, code),
            (None, Some(code)) => Answer::error(403, code),
            (None, None) => inside.lock().unwrap().answer(&request),
        };
        let mut head = format!("HTTP/1.1 {} Said\r\n", answer.status);
        for (name, value) in &answer.headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        let sized = answer
            .headers
            .iter()
            .any(|(name, _)| *name == "content-length");
        if !sized {
            write!(head, "content-length: {}\r\n", answer.body.len()).unwrap();
        }
        head.push_str("\r\n");
        let mut out = head.into_bytes();
        // HEAD is answered without a body.
        if request.method != "HEAD" {
            out.extend(&answer.body);
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

impl Inside {
    fn answer(&mut self, request: &Request) -> Answer {
        let path = decoded(&request.path);
        let (bucket, key) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        let Some(objects) = self.buckets.get_mut(bucket) else {
            return Answer::error(404, "NoSuchBucket");
        };
        let query = |name: &str| request.query.get(name).map(String::as_str);
        match (request.method.as_str(), key) {
            ("GET", "") => list(objects, &query),
            ("GET" | "HEAD", key) => match objects.get(key) {
                Some(bytes) => object(bytes, request),
                None => Answer::error(404, "NoSuchKey"),
            },
            ("PUT", key) => {
                if let (Some(id), Some(part)) = (query("uploadId"), query("partNumber")) {
                    let Some(parts) = self.uploads.get_mut(id) else {
                        return Answer::error(404, "NoSuchUpload");
                    };
                    parts.insert(part.parse().unwrap(), request.body.clone());
                } else if request.headers.contains_key("if-none-match") && objects.contains_key(key)
                {
                    return Answer::error(412, "PreconditionFailed");
                } else {
                    objects.insert(key.to_owned(), request.body.clone());
                }
                Answer {
                    headers: vec![("etag", "\"1\"".to_owned())],
                    ..Answer::ok("")
                }
            }
            ("POST", key) => match query("uploadId") {
                None => {
                    self.begun += 1;
                    let id = format!("up{}", self.begun);
                    self.uploads.insert(id.clone(), BTreeMap::new());
                    Answer::ok(format!(
                        "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                    ))
                }
                Some(id) => match self.uploads.remove(id) {
                    Some(parts) => {
                        let whole = parts.into_values().flatten().collect();
                        objects.insert(key.to_owned(), whole);
                        Answer::ok(
                            "<CompleteMultipartUploadResult><ETag>\"1\"</ETag></CompleteMultipartUploadResult>",
                        )
                    }
                    None => Answer::error(404, "NoSuchUpload"),
                },
            },
            ("DELETE", key) => {
                match query("uploadId") {
                    Some(id) => drop(self.uploads.remove(id)),
                    None => drop(objects.remove(key)),
                }
                Answer {
                    status: 204,
                    ..Answer::default()
                }
            }
            (other, _) => panic!("{other} {path}"),
        }
    }
}

fn object(bytes: &[u8], request: &Request) -> Answer {
    let range = request.headers.get("range").map(|range| {
        let (from, to) = range
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        let last = bytes.len().saturating_sub(1);
        match from {
            "" => (bytes.len().saturating_sub(to.parse().unwrap()), last),
            from => (from.parse().unwrap(), to.parse().unwrap_or(last).min(last)),
        }
    });
    let (status, part) = match range {
        Some((from, to)) => (206, &bytes[from..=to]),
        None => (200, bytes),
    };
    let mut headers = vec![
        ("content-length", part.len().to_string()),
        ("last-modified", "Sat, 28 Nov 2026 10:00:00 GMT".to_owned()),
        (
            "etag",
            format!("\"{}\"", hex(&digest(&SHA256, bytes).as_ref()[..8])),
        ),
    ];
    if let Some((from, to)) = range {
        headers.push((
            "content-range",
            format!("bytes {from}-{to}/{}", bytes.len()),
        ));
    }
    Answer {
        status,
        headers,
        body: part.to_vec(),
    }
}

/// Two objects a page, so that there are always several.
fn list<'a>(objects: &Bucket, query: &impl Fn(&str) -> Option<&'a str>) -> Answer {
    let prefix = query("prefix").unwrap_or_default();
    let after = query("continuation-token")
        .or(query("start-after"))
        .unwrap_or_default();
    let (mut out, mut folders, mut shown, mut more) = (String::new(), Vec::new(), 0, None);
    for (key, bytes) in objects.range(after.to_owned()..) {
        let Some(rest) = key.strip_prefix(prefix).filter(|_| key.as_str() > after) else {
            continue;
        };
        if let (Some(mark), Some(at)) = (query("delimiter"), rest.find('/')) {
            assert_eq!(mark, "/");
            let folder = format!("{prefix}{}", &rest[..=at]);
            if !folders.contains(&folder) {
                folders.push(folder);
            }
            continue;
        }
        if shown == 2 {
            more = Some(());
            break;
        }
        shown += 1;
        write!(
            out,
            "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2026-11-28T10:00:00.000Z</LastModified><ETag>\"1\"</ETag></Contents>",
            bytes.len()
        )
        .unwrap();
        if shown == 2 {
            write!(out, "<NextContinuationToken>{key}</NextContinuationToken>").unwrap();
        }
    }
    for folder in folders {
        write!(
            out,
            "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
        )
        .unwrap();
    }
    if more.is_none() {
        let end = out.find("<NextContinuationToken>");
        if let (Some(from), Some(to)) = (end, out.find("</NextContinuationToken>")) {
            out.replace_range(from..to + "</NextContinuationToken>".len(), "");
        }
    }
    Answer::ok(format!(
        "<ListBucketResult><IsTruncated>{}</IsTruncated>{out}</ListBucketResult>",
        more.is_some()
    ))
}
