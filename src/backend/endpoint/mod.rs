//! A model on servers: vLLM, SGLang, llama-server, Ollama, or whatever speaks OpenAI's protocol.
//!
//! Takes addresses, gives a [`Backend`]. Each prompt is one request, sent to the least loaded of the servers, again to
//! another where one fails, and ended where nobody waits for it any longer. `http` speaks to one server, `wire` knows
//! what requests and replies look like, `probe` finds out what a server can do, `replicas` which one is next, `answer`
//! finds the label in what a model wrote. Servers are believed about the name of their model: the digest of a verdict's
//! key is over that name, the form of the prompt and nothing of the weights.

mod address;
mod answer;
mod http;
mod probe;
pub mod replicas;
mod reply;
mod tls;
mod wire;

pub use address::is_address;
pub use http::{Fault, Refusal};
pub use probe::Ways;
pub use wire::Form;

use self::address::Addresses;
use self::http::{Client, Way};
use self::probe::Unusable;
use self::replicas::{Pick, Replicas, pause};
use self::wire::{Put, Said, Want};
use super::harmony::{Harmony, Template, effort_name, escape};
use super::labels::LabelTrie;
use super::{Answer, Backend, BackendError, ModelIdentity, Places, Prompt, Reply};
use crate::config::{
    ENDPOINT_CONNECT_MS, ENDPOINT_IN_FLIGHT_MAX, ENDPOINT_PAUSE_MS, ENDPOINT_PREFIXES_MAX,
    ENDPOINT_REPLY_MS, ENDPOINT_SILENCE_MS, ENDPOINT_SILENT_TRIES_MAX, ENDPOINT_TRIES_MAX,
    EndpointAccess, POLICY_TOKENS_MAX,
};
use crate::model::tokenizer::{Tokenizer, TooMany};
use safeguard_udfs::{Effort, Lane, Mode};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

/// How patient an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// To accept a connection.
    pub connect: Duration,
    /// From a request to the end of its reply.
    pub reply: Duration,
    /// Before the second try.
    pub pause: Duration,
    /// Without a byte of any reply, before others that are well are asked instead.
    pub silence: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            connect: Duration::from_millis(ENDPOINT_CONNECT_MS),
            reply: Duration::from_millis(ENDPOINT_REPLY_MS),
            pause: Duration::from_millis(ENDPOINT_PAUSE_MS),
            silence: Duration::from_millis(ENDPOINT_SILENCE_MS),
        }
    }
}

/// What was found at an address when the endpoint was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Without the name of a model.
    pub address: String,
    /// What it can do, or why it did not answer.
    pub ways: Result<Ways, String>,
    /// Tokens of one prompt with its reply, where it tells.
    pub context: Option<u64>,
}

type Prefix = Result<Arc<Vec<u32>>, TooMany>;

/// A model behind addresses.
#[derive(Debug)]
pub struct Endpoint {
    identity: ModelIdentity,
    harmony: Harmony,
    ways: Ways,
    found: Vec<Found>,
    clients: Vec<Arc<Client>>,
    replicas: Mutex<Replicas>,
    /// Told whenever a place at a server becomes free.
    free: Notify,
    threads: Semaphore,
    prefixes: Mutex<HashMap<(Arc<str>, Effort), Prefix>>,
    sent: AtomicU64,
    tuning: Tuning,
}

impl Endpoint {
    /// A model by the addresses of its servers, `URL[#MODEL][,URL..]`, as somebody with a key or as anybody. Asks each
    /// server what it can do; blocks until they have answered. Those that do not answer are tried again later.
    ///
    /// # Errors
    /// An address that is none, a server that refuses or is not to be trusted, servers of different models, none that
    /// answers.
    pub fn open(said: &str, access: EndpointAccess) -> Result<Endpoint, BackendError> {
        Endpoint::open_with(said, access, Tuning::default())
    }

    /// The same with another patience.
    ///
    /// # Errors
    /// As [`Endpoint::open`].
    pub fn open_with(
        said: &str,
        access: EndpointAccess,
        tuning: Tuning,
    ) -> Result<Endpoint, BackendError> {
        let Addresses { bases, model } = Addresses::parse(said)?;
        let way = Way::new(access, tuning)?;
        let clients: Vec<Arc<Client>> = bases
            .iter()
            .map(|base| Arc::new(Client::new(base, &way)))
            .collect();
        let template = Template::released();
        let harmony = Harmony::new(Arc::new(Tokenizer::o200k_harmony()), template.clone());
        let harmony = harmony.expect("bug: the compiled vocabulary has every control token");
        let mut replicas = Replicas::new(clients.len());
        let mut found = Vec::new();
        let mut ways: Option<(String, Ways)> = None;
        for (number, client) in clients.iter().enumerate() {
            let looked = match probe::look(client, &harmony, model.as_deref()) {
                Err(Unusable::Never(error)) => return Err(error),
                Err(Unusable::Down(why)) => {
                    tracing::warn!(why, "a server does not answer; it is tried again later");
                    replicas.leave_alone(number, &why, Instant::now().into_std());
                    Err(why)
                }
                Ok(looked) => Ok(looked),
            };
            if let Ok((own, _)) = &looked {
                let (base, first) = ways.get_or_insert_with(|| (client.base.clone(), own.clone()));
                if first != own {
                    return Err(differ((base, first), (&client.base, own)));
                }
            }
            found.push(Found {
                address: client.base.clone(),
                context: looked.as_ref().ok().and_then(|(_, context)| *context),
                ways: looked.map(|(ways, _)| ways),
            });
        }
        let Some((_, ways)) = ways else {
            let whys = found.iter().filter_map(|found| found.ways.as_ref().err());
            let whys: Vec<&str> = whys.map(String::as_str).collect();
            return Err(BackendError::Unreachable(whys.join("; ")));
        };
        Ok(Endpoint {
            identity: identity(&ways, &template),
            harmony,
            ways,
            found,
            clients,
            replicas: Mutex::new(replicas),
            free: Notify::new(),
            threads: Semaphore::new(ENDPOINT_IN_FLIGHT_MAX),
            prefixes: Mutex::default(),
            sent: AtomicU64::new(0),
            tuning,
        })
    }

    /// What was found at each address, in order.
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// Requests sent since it was opened, tries again included.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// A prompt with what is forced behind it.
    fn put(&self, prompt: &Prompt, form: Form, forced: &[u32]) -> Result<Put, Unput> {
        if form == Form::Chat {
            return Ok(Put::Chat {
                policy: escape(&prompt.policy.text),
                text: escape(&prompt.text),
                effort: effort_name(prompt.effort),
            });
        }
        let (prefix, suffix) = (self.prefix(prompt)?, self.suffix(prompt)?);
        let ids: Vec<u32> = prefix
            .iter()
            .chain(&suffix)
            .chain(forced)
            .copied()
            .collect();
        Ok(match form {
            Form::Ids => Put::Ids(ids),
            _ => Put::Text(self.harmony.text(&ids)),
        })
    }

    /// Tokens of a prompt as we count them.
    fn length(&self, prompt: &Prompt) -> Result<u64, Unput> {
        Ok((self.prefix(prompt)?.len() + self.suffix(prompt)?.len()) as u64)
    }

    fn prefix(&self, prompt: &Prompt) -> Result<Arc<Vec<u32>>, Unput> {
        let key = (Arc::clone(&prompt.policy.digest), prompt.effort);
        if let Some(kept) = lock(&self.prefixes).get(&key) {
            return kept.clone().map_err(|_| Unput::Policy);
        }
        let policy = self.ordinary(&prompt.policy.text);
        let prefix = self.harmony.prefix(&policy, prompt.effort).map(Arc::new);
        let mut prefixes = lock(&self.prefixes);
        if prefixes.len() >= ENDPOINT_PREFIXES_MAX {
            prefixes.clear();
        }
        prefixes.insert(key, prefix.clone());
        prefix.map_err(|_| Unput::Policy)
    }

    fn suffix(&self, prompt: &Prompt) -> Result<Vec<u32>, Unput> {
        let suffix = self.harmony.suffix(&self.ordinary(&prompt.text));
        suffix.map_err(|TooMany { at_least }| Unput::Text(at_least))
    }

    /// A text that a server cannot take for control tokens: ids never are.
    fn ordinary(&self, text: &str) -> String {
        match self.ways.completions {
            Some(Form::Ids) => text.to_owned(),
            _ => escape(text),
        }
    }

    /// Sends a request until it is answered, tried too often, or refused for good.
    async fn send(&self, put: &Put, want: Want, lane: Lane) -> Result<Said, BackendError> {
        let thread = self.threads.acquire().await;
        let _thread = thread.expect("bug: nobody closes it");
        let body = put.body(&self.ways.model, self.harmony.stop_ids(), want);
        let mut last = String::new();
        for tries in 1..=ENDPOINT_TRIES_MAX {
            let seat = self.seat(lane).await.map_err(BackendError::Model)?;
            let (begun, client) = (Instant::now(), &self.clients[seat.number]);
            let number = self.sent.fetch_add(1, Ordering::Relaxed);
            let asked = client.post(put.path(), body.clone());
            let said = match tries <= ENDPOINT_SILENT_TRIES_MAX && want.shows_life() {
                true => self.while_heard(seat.number, asked).await,
                false => asked.await,
            };
            let said = said.and_then(|said| self.by_the_model(said, client));
            seat.ended(begun, said.as_ref().err());
            match said {
                Ok(said) => return Ok(said),
                Err(Fault::Final { why, .. }) => return Err(BackendError::Model(why)),
                Err(fault) => fault.why().clone_into(&mut last),
            }
            if tries < ENDPOINT_TRIES_MAX {
                let chance = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                tokio::time::sleep(pause(tries, chance, self.tuning.pause)).await;
            }
        }
        let why = format!("{last}; given up after {ENDPOINT_TRIES_MAX} tries");
        Err(BackendError::Model(why))
    }

    /// What was said, unless the server falls silent while others are well: a server that hangs holds many texts, and each of
    /// them would hold what waits for it until the end of its time.
    async fn while_heard(
        &self,
        number: usize,
        asked: impl Future<Output = Result<Said, Fault>>,
    ) -> Result<Said, Fault> {
        let silence = lock(&self.replicas).patience(number, self.tuning.silence);
        let begun = Instant::now();
        let client = &self.clients[number];
        let mut asked = pin!(asked);
        let mut look = begun + silence;
        loop {
            if let Ok(said) = tokio::time::timeout_at(look, &mut asked).await {
                return said;
            }
            let heard = client.heard().map(Instant::from_std);
            let until = heard.map_or(begun, |heard| heard.max(begun)) + silence;
            look = match until > Instant::now() {
                true => until,
                false if lock(&self.replicas).others_are_well(number) => {
                    let why = format!(
                        "{}: not a byte within {} ms",
                        client.base,
                        silence.as_millis()
                    );
                    return Err(Fault::Slow(why));
                }
                false => Instant::now() + silence,
            };
        }
    }

    fn by_the_model(&self, said: Said, client: &Client) -> Result<Said, Fault> {
        match &said.model {
            Some(model) if *model != self.ways.model => Err(Fault::other(format!(
                "{} answers as \"{model}\", not as \"{}\"",
                client.base, self.ways.model
            ))),
            _ => Ok(said),
        }
    }

    /// A place at the server that is next; the error is why there will be none.
    async fn seat(&self, lane: Lane) -> Result<Seat<'_>, String> {
        loop {
            let free = self.free.notified();
            tokio::pin!(free);
            // From here on no place that becomes free is missed.
            free.as_mut().enable();
            let picked = lock(&self.replicas).pick(lane, Instant::now().into_std());
            match picked {
                Pick::Take(number) => {
                    return Ok(Seat {
                        endpoint: self,
                        number,
                        ended: false,
                    });
                }
                Pick::Out(why) => return Err(format!("no server answers: {why}")),
                Pick::Wait(None) => free.await,
                Pick::Wait(Some(time)) => drop(tokio::time::timeout(time, free).await),
            }
        }
    }
}

/// A place at a server, free again when dropped.
struct Seat<'a> {
    endpoint: &'a Endpoint,
    number: usize,
    ended: bool,
}

impl Seat<'_> {
    fn ended(mut self, begun: Instant, fault: Option<&Fault>) {
        self.ended = true;
        let (begun, now) = (begun.into_std(), Instant::now().into_std());
        lock(&self.endpoint.replicas).ended(self.number, begun, now, fault);
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if !self.ended {
            lock(&self.endpoint.replicas).left(self.number);
        }
        self.endpoint.free.notify_waiters();
    }
}

/// Why a prompt cannot be put.
enum Unput {
    Policy,
    /// It has at least so many tokens.
    Text(usize),
}

#[async_trait::async_trait]
impl Backend for Endpoint {
    fn model(&self) -> &ModelIdentity {
        &self.identity
    }

    /// As our tokenizer counts them; a server that renders chat messages itself counts a few more.
    fn tokens(&self, prompt: &Prompt) -> u64 {
        self.length(prompt).unwrap_or(0)
    }

    fn places(&self) -> Option<Places> {
        Some(lock(&self.replicas).places())
    }

    async fn ask(&self, prompt: Prompt) -> Result<Reply, BackendError> {
        let labels = prompt.policy.labels.iter();
        let labels = labels.map(|label| self.harmony.label(label)).collect();
        let labels = LabelTrie::new(labels).map_err(BackendError::Labels)?;
        let tokens_in = match self.length(&prompt) {
            Ok(tokens) => tokens,
            Err(Unput::Policy) => {
                let limit = POLICY_TOKENS_MAX;
                return Err(BackendError::PolicyTooLong { limit });
            }
            Err(Unput::Text(tokens)) => {
                return Ok(Reply {
                    answer: Answer::TooLong { tokens },
                    tokens_in: 0,
                    tokens_out: 0,
                });
            }
        };
        match prompt.mode {
            Mode::Score => self.score(&prompt, &labels, tokens_in).await,
            // Without a calibration, auto reasons.
            Mode::Auto | Mode::Reason => self.reason(&prompt, tokens_in).await,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is whole before it can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn differ((base, one): (&str, &Ways), (other_base, other): (&str, &Ways)) -> BackendError {
    if one.model != other.model {
        return BackendError::NoModel(format!(
            "{base} has \"{}\" and {other_base} has \"{}\": replicas must have one model",
            one.model, other.model
        ));
    }
    let ways = |ways: &Ways| {
        let probabilities = if ways.logprobs { "with" } else { "without" };
        format!("{}, {probabilities} probabilities", ways.reason().as_str())
    };
    BackendError::Protocol(format!(
        "{base} is asked by {} and {other_base} by {}: replicas must be the same",
        ways(one),
        ways(other)
    ))
}

/// Digest over the model's name as the server tells it, the template and the class of arithmetic: any server's.
fn identity(ways: &Ways, template: &Template) -> ModelIdentity {
    let version = match (ways.reason(), ways.completions) {
        (Form::Chat, Some(_)) => format!("chat-1 and {}", template.version),
        (Form::Chat, None) => "chat-1".to_owned(),
        (Form::Text, _) => format!("{} escaped", template.version),
        (Form::Ids, _) => template.version.to_owned(),
    };
    let parts = [&*ways.model, &version, &template.digest(), "endpoint"].join("\n");
    ModelIdentity {
        name: ways.model.as_str().into(),
        digest: blake3::hash(parts.as_bytes()).to_hex().as_str().into(),
        demonstration: false,
        template_version: version.into(),
    }
}
