//! Passwords without passwords: the server's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS.
//!
//! Takes what the store keeps of a user and the client's two messages, gives the server's two, or why the client is
//! refused, in PostgreSQL's words (RFC 5802, RFC 7677, tls-server-end-point of RFC 5929; `auth-scram.c`). Pure but for
//! random nonces and salts. A name that no user has goes through the same exchange against a mock verifier, so that it
//! cannot be told from a wrong password. Knows no socket and no store; shows no secret, not even to `Debug`.

use super::failure::Failure;
use crate::config::{
    SCRAM_ITERATIONS, SCRAM_ITERATIONS_MAX, SCRAM_MESSAGE_BYTES_MAX, SCRAM_NONCE_BYTES,
    SCRAM_SALT_BYTES,
};
use crate::store::{UserRow, now};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;

/// Without channel binding.
pub const SCRAM: &str = "SCRAM-SHA-256";
/// With channel binding, which a proxy between client and server breaks.
pub const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// The one kind of channel binding.
const BINDING: &str = "tls-server-end-point";

/// What proves a password without telling it. Its text form is PostgreSQL's.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

impl Verifier {
    /// Of a password, with a salt of its own. Takes as long as `iterations` say.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn derive(password: &str, iterations: NonZeroU32) -> Result<Verifier, Failure> {
        let mut salt = vec![0; SCRAM_SALT_BYTES];
        random(&mut salt)?;
        Ok(Verifier::salted(password, iterations, salt))
    }

    fn salted(password: &str, iterations: NonZeroU32, salt: Vec<u8>) -> Verifier {
        // As PostgreSQL does, a password that cannot be normalised is taken as it is.
        let password = match stringprep::saslprep(password) {
            Ok(prepared) if !prepared.is_empty() => prepared,
            _ => Cow::Borrowed(password),
        };
        let mut salted = [0; 32];
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(
            algorithm,
            iterations,
            &salt,
            password.as_bytes(),
            &mut salted,
        );
        Verifier {
            iterations,
            salt,
            stored_key: sha256(&sign(&salted, b"Client Key")),
            server_key: sign(&salted, b"Server Key"),
        }
    }

    /// From its text form; `None` for anything else.
    pub fn parse(text: &str) -> Option<Verifier> {
        let (iterations, rest) = text
            .strip_prefix(SCRAM)?
            .strip_prefix('$')?
            .split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored, server) = keys.split_once(':')?;
        let key = |text| <[u8; 32]>::try_from(BASE64.decode(text).ok()?).ok();
        let iterations: NonZeroU32 = iterations.parse().ok()?;
        (iterations.get() <= SCRAM_ITERATIONS_MAX).then_some(())?;
        Some(Verifier {
            iterations,
            salt: BASE64.decode(salt).ok()?,
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    }

    /// Of a user who may log in now (microseconds since 1970-01-01 UTC); `None` for nobody, one whose time is over, and a
    /// verifier that cannot be read.
    fn of_user(user: Option<&UserRow>, now: i64) -> Option<Verifier> {
        let user = user.filter(|user| user.valid_until.is_none_or(|until| now < until))?;
        Verifier::parse(&user.verifier)
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|key| BASE64.encode(key));
        write!(f, "{SCRAM}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

/// What mock verifiers are made of.
#[derive(Clone)]
pub struct Mock {
    secret: [u8; 32],
}

impl Mock {
    /// `secret` is the store's: [`crate::store::Store::mock_secret`].
    pub fn new(secret: [u8; 32]) -> Mock {
        Mock { secret }
    }

    /// For a name; the same for the same name and secret.
    fn verifier(&self, user: &str) -> Verifier {
        let salt = sign(&self.secret, user.as_bytes());
        Verifier {
            iterations: SCRAM_ITERATIONS,
            salt: salt[..SCRAM_SALT_BYTES].to_vec(),
            stored_key: [0; 32],
            server_key: [0; 32],
        }
    }
}

impl fmt::Debug for Mock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mock(..)")
    }
}

/// One client's login, message by message.
pub struct Exchange {
    user: String,
    verifier: Verifier,
    /// Whether no proof is good enough.
    doomed: bool,
    binding: Option<Vec<u8>>,
    nonce: String,
    begun: Option<Begun>,
}

/// What the first message settled.
struct Begun {
    /// What the last one has to say of the channel, in base64.
    channel: String,
    plus: bool,
    nonce: String,
    /// The client's first message without its header, and the server's answer, with a comma between them.
    said: String,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Exchange {
    /// For `user`, the name of the startup packet, of whom the store has `known`. `binding`: the digest of the server's
    /// certificate on this connection, if it is encrypted.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new(
        user: &str,
        known: Option<&UserRow>,
        binding: Option<Vec<u8>>,
        mock: &Mock,
    ) -> Result<Exchange, Failure> {
        Exchange::of(user, Verifier::of_user(known, now()), binding, mock)
    }

    fn of(
        user: &str,
        verifier: Option<Verifier>,
        binding: Option<Vec<u8>>,
        mock: &Mock,
    ) -> Result<Exchange, Failure> {
        let mut nonce = [0; SCRAM_NONCE_BYTES];
        random(&mut nonce)?;
        Ok(Exchange {
            user: user.to_owned(),
            doomed: verifier.is_none(),
            verifier: verifier.unwrap_or_else(|| mock.verifier(user)),
            binding,
            nonce: BASE64.encode(nonce),
            begun: None,
        })
    }

    /// What the client may choose from, the best first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match self.binding {
            Some(_) => &[SCRAM_PLUS, SCRAM],
            None => &[SCRAM],
        }
    }

    /// Answers the client's first message: what AuthenticationSASLContinue carries.
    ///
    /// # Errors
    /// Fatal: a mechanism that was not offered, a message that is none, a downgrade.
    pub fn first(&mut self, mechanism: &str, client_first: &[u8]) -> Result<Vec<u8>, Failure> {
        if self.begun.is_some() {
            return Err(protocol("unexpected SASL message"));
        }
        if !self.mechanisms().contains(&mechanism) {
            return Err(protocol(
                "client selected an invalid SASL authentication mechanism",
            ));
        }
        let plus = mechanism == SCRAM_PLUS;
        let message = text(client_first)?;
        let (header, bare) = self.header(message, plus)?;
        if bare.starts_with("m=") {
            return Err(unsupported(
                "client requires an unsupported SCRAM extension",
            ));
        }
        let mut attributes = bare.split(',');
        // As in PostgreSQL, the name of the startup packet counts, not this one.
        attribute(attributes.next(), 'n')?;
        let client_nonce = attribute(attributes.next(), 'r')?;
        if client_nonce.is_empty() || !client_nonce.bytes().all(|b| matches!(b, 0x21..=0x7e)) {
            return Err(protocol("non-printable characters in SCRAM nonce"));
        }
        let nonce = format!("{client_nonce}{}", self.nonce);
        let salt = BASE64.encode(&self.verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let mut channel = header.as_bytes().to_vec();
        if plus {
            channel.extend(self.binding.iter().flatten());
        }
        self.begun = Some(Begun {
            channel: BASE64.encode(channel),
            plus,
            nonce,
            said: format!("{bare},{server_first}"),
        });
        Ok(server_first.into_bytes())
    }

    /// The client's word on channel binding, up to the second comma, and what follows it.
    fn header<'a>(&self, message: &'a str, plus: bool) -> Result<(&'a str, &'a str), Failure> {
        let absent = "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.";
        let (flag, rest) = message.split_once(',').ok_or_else(|| {
            malformed("Comma expected, but the message ends after the channel-binding flag.")
        })?;
        match flag.as_bytes() {
            b"n" | b"y" if plus => return Err(malformed(absent)),
            b"n" => {}
            b"y" if self.binding.is_some() => {
                // Somebody between the two may have taken the better mechanism from the server's offer.
                let why = "SCRAM channel binding negotiation error";
                return Err(Failure {
                    detail: Some("The client supports SCRAM channel binding but thinks the server does not.  However, this server does support channel binding.".into()),
                    ..Failure::fatal("28000", why)
                });
            }
            b"y" => {}
            [b'p', b'=', ..] if !plus => {
                return Err(malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
                ));
            }
            [b'p', b'=', kind @ ..] if kind == BINDING.as_bytes() => {}
            [b'p', b'=', ..] => return Err(protocol("unsupported SCRAM channel-binding type")),
            _ => return Err(malformed("Unexpected channel-binding flag.")),
        }
        if rest.starts_with('a') {
            return Err(unsupported(
                "client uses authorization identity, but it is not supported",
            ));
        }
        let bare = rest
            .strip_prefix(',')
            .ok_or_else(|| malformed("Unexpected attribute in client-first-message."))?;
        Ok((&message[..message.len() - bare.len()], bare))
    }

    /// Answers the client's last message: what AuthenticationSASLFinal carries, before AuthenticationOk.
    ///
    /// # Errors
    /// Fatal: 28P01 for a wrong password and a name that no user has, alike; 28000 where client and server do not see the
    /// same certificate; 08P01 for a message that is none.
    pub fn last(&mut self, client_final: &[u8]) -> Result<Vec<u8>, Failure> {
        let begun = self
            .begun
            .take()
            .ok_or_else(|| protocol("unexpected SASL message"))?;
        let message = text(client_final)?;
        let (without_proof, proof) = message
            .rsplit_once(",p=")
            .ok_or_else(|| malformed("Attribute \"p\" expected in client-final-message."))?;
        let mut attributes = without_proof.split(',');
        if attribute(attributes.next(), 'c')? != begun.channel {
            return Err(match begun.plus {
                true => Failure::fatal("28000", "SCRAM channel binding check failed"),
                false => {
                    protocol("unexpected SCRAM channel-binding attribute in client-final-message")
                }
            });
        }
        if attribute(attributes.next(), 'r')? != begun.nonce {
            return Err(Failure {
                detail: Some("Nonce does not match.".into()),
                ..protocol("invalid SCRAM response")
            });
        }
        let proof: [u8; 32] = BASE64
            .decode(proof)
            .ok()
            .and_then(|proof| proof.try_into().ok())
            .ok_or_else(|| malformed("Malformed proof in client-final-message."))?;
        let said = format!("{},{without_proof}", begun.said);
        let proved = self.proved(&proof, said.as_bytes());
        let signature = sign(&self.verifier.server_key, said.as_bytes());
        match proved && !self.doomed {
            true => Ok(format!("v={}", BASE64.encode(signature)).into_bytes()),
            false => Err(refused(&self.user)),
        }
    }

    /// Whether whoever made this proof knows the password. Takes the same time for all that do not.
    fn proved(&self, proof: &[u8; 32], said: &[u8]) -> bool {
        let stored = hmac::Key::new(hmac::HMAC_SHA256, &self.verifier.stored_key);
        let signature = hmac::sign(&stored, said);
        let mut client_key = *proof;
        for (byte, mask) in client_key.iter_mut().zip(signature.as_ref()) {
            *byte ^= mask;
        }
        // Equal codes mean equal keys, and ring compares codes in constant time.
        let expected = hmac::sign(&stored, &self.verifier.stored_key);
        hmac::verify(&stored, &sha256(&client_key), expected.as_ref()).is_ok()
    }
}

/// What PostgreSQL says of a wrong password, and of a name that no user has.
pub fn refused(user: &str) -> Failure {
    let why = format!("password authentication failed for user \"{user}\"");
    Failure::fatal("28P01", why)
}

/// A message's text.
fn text(message: &[u8]) -> Result<&str, Failure> {
    if message.is_empty() {
        return Err(malformed("The message is empty."));
    }
    if message.len() > SCRAM_MESSAGE_BYTES_MAX || message.contains(&0) {
        return Err(malformed("Message length does not match input length."));
    }
    std::str::from_utf8(message).map_err(|_| malformed("The message is not UTF-8."))
}

/// The value of `name=value`.
fn attribute(found: Option<&str>, name: char) -> Result<&str, Failure> {
    found
        .and_then(|found| found.strip_prefix(name)?.strip_prefix('='))
        .ok_or_else(|| malformed(&format!("Expected attribute \"{name}\".")))
}

fn protocol(why: &str) -> Failure {
    Failure::fatal("08P01", why)
}

fn unsupported(why: &str) -> Failure {
    Failure::fatal("0A000", why)
}

fn malformed(detail: &str) -> Failure {
    Failure {
        detail: Some(detail.into()),
        ..protocol("malformed SCRAM message")
    }
}

fn random(bytes: &mut [u8]) -> Result<(), Failure> {
    SystemRandom::new()
        .fill(bytes)
        .map_err(|_| Failure::fatal("58000", "the system gives no random numbers"))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    digest
}

fn sign(key: &[u8], bytes: &[u8]) -> [u8; 32] {
    let mut code = [0; 32];
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    code.copy_from_slice(hmac::sign(&key, bytes).as_ref());
    code
}

#[cfg(test)]
#[path = "scram_tests.rs"]
mod tests;
