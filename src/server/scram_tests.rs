//! RFC 7677's exchange to the byte, every refusal, and a client that knows the password.

use super::*;
use proptest::prelude::*;

/// A client of RFC 5802: its first message, and its last one once the server has answered.
struct Client<'a> {
    password: &'a str,
    header: &'a str,
    binding: &'a [u8],
    nonce: &'a str,
}

impl Client<'_> {
    fn bare(&self) -> String {
        format!("n=user,r={}", self.nonce)
    }

    fn first(&self) -> Vec<u8> {
        format!("{}{}", self.header, self.bare()).into_bytes()
    }

    /// The last message, and what the server has to answer.
    fn last(&self, server_first: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let server_first = std::str::from_utf8(server_first).unwrap();
        let [nonce, salt, iterations] = ["r=", "s=", "i="].map(|name| {
            let part = server_first.split(',').find(|part| part.starts_with(name));
            part.unwrap()[2..].to_owned()
        });
        let salt = BASE64.decode(salt).unwrap();
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations.parse().unwrap(),
            &salt,
            self.password.as_bytes(),
            &mut salted,
        );
        let channel = BASE64.encode([self.header.as_bytes(), self.binding].concat());
        let without_proof = format!("c={channel},r={nonce}");
        let said = format!("{},{server_first},{without_proof}", self.bare());
        let mut proof = sign(&salted, b"Client Key");
        let signature = sign(&sha256(&proof), said.as_bytes());
        proof.iter_mut().zip(signature).for_each(|(p, s)| *p ^= s);
        let server = sign(&sign(&salted, b"Server Key"), said.as_bytes());
        (
            format!("{without_proof},p={}", BASE64.encode(proof)).into_bytes(),
            format!("v={}", BASE64.encode(server)).into_bytes(),
        )
    }
}

const PLAIN: Client<'static> = Client {
    password: "pencil",
    header: "n,,",
    binding: b"",
    nonce: "rOprNGfwEbeRWgbNEkqO",
};

const BOUND: Client<'static> = Client {
    header: "p=tls-server-end-point,,",
    binding: b"digest of the certificate",
    ..PLAIN
};

fn verifier() -> Verifier {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    Verifier::salted("pencil", SCRAM_ITERATIONS, salt)
}

fn mock() -> Mock {
    Mock::new([7; 32])
}

fn exchange(verifier: Option<Verifier>, binding: Option<&[u8]>) -> Exchange {
    Exchange::of("ada", verifier, binding.map(<[u8]>::to_vec), &mock()).unwrap()
}

/// Both messages of a client through the server.
fn log_in(exchange: &mut Exchange, mechanism: &str, client: &Client<'_>) -> Result<bool, Failure> {
    let server_first = exchange.first(mechanism, &client.first())?;
    let (last, expected) = client.last(&server_first);
    Ok(exchange.last(&last)? == expected)
}

#[test]
fn the_example_of_rfc_7677_comes_out_to_the_byte() {
    let mut exchange = exchange(Some(verifier()), None);
    exchange.nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned();
    assert_eq!(exchange.mechanisms(), [SCRAM]);
    let first = exchange
        .first(SCRAM, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
        .unwrap();
    assert_eq!(
        String::from_utf8(first).unwrap(),
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let last = exchange
        .last(
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
              p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        )
        .unwrap();
    assert_eq!(
        String::from_utf8(last).unwrap(),
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    );
}

#[test]
fn a_verifier_is_read_as_it_is_written() {
    let text = verifier().to_string();
    // What PostgreSQL 15 stores for this password, salt and number of iterations.
    assert_eq!(
        text,
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
         wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    );
    assert!(Verifier::parse(&text).unwrap() == verifier());
    for wrong in [
        "",
        "SCRAM-SHA-256",
        "md5c2ad1f4d",
        &text[1..],
        &text[..text.len() - 2],
        &text.replace("4096", "0"),
        &text.replace("4096", "-1"),
        &text.replace("4096", "4294967295"),
        &text.replace("W22Z", "W2 Z"),
        &text.replace("WG5d", ""),
        &format!("{text}:"),
    ] {
        assert!(Verifier::parse(wrong).is_none(), "{wrong}");
    }
    let (one, two) = (
        Verifier::derive("pencil", SCRAM_ITERATIONS).unwrap(),
        Verifier::derive("pencil", SCRAM_ITERATIONS).unwrap(),
    );
    assert!(one != two, "salts are random");
}

#[test]
fn passwords_are_normalised_as_postgresql_does() {
    let same = [
        // No-break space and space; a ligature and its letters; what is mapped to nothing.
        ("pass\u{a0}word", "pass word"),
        ("\u{fb01}sh", "fish"),
        ("pen\u{ad}cil", "pencil"),
    ];
    let of = |password: &str| Verifier::salted(password, SCRAM_ITERATIONS, vec![1; 16]);
    for (one, other) in same {
        assert!(of(one) == of(other), "{one:?}");
    }
    // Forbidden characters, and one that comes to nothing: taken as they are.
    for one in ["\u{7}bell\u{e9}", "\u{ad}"] {
        let raw = {
            let mut salted = [0; 32];
            let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
            pbkdf2::derive(
                algorithm,
                SCRAM_ITERATIONS,
                &[1; 16],
                one.as_bytes(),
                &mut salted,
            );
            sign(&salted, b"Server Key")
        };
        assert!(of(one).server_key == raw, "{one:?}");
    }
}

#[test]
fn who_knows_the_password_is_let_in() {
    let digest = BOUND.binding;
    let cases = [
        (None, SCRAM, PLAIN),
        (
            None,
            SCRAM,
            Client {
                header: "y,,",
                ..PLAIN
            },
        ),
        (Some(digest), SCRAM, PLAIN),
        (Some(digest), SCRAM_PLUS, BOUND),
    ];
    for (binding, mechanism, client) in cases {
        let mut exchange = exchange(Some(verifier()), binding);
        let done = log_in(&mut exchange, mechanism, &client);
        assert_eq!(done, Ok(true), "{mechanism} {}", client.header);
        // Once is once.
        let again = exchange.last(b"c=biws").unwrap_err();
        assert_eq!(again.to_string(), "08P01: unexpected SASL message");
    }
}

#[test]
fn who_does_not_is_refused_alike() {
    let wrong = Client {
        password: "Pencil",
        ..PLAIN
    };
    let user = |valid_until, verifier: &str| UserRow {
        name: "ada".to_owned(),
        role: "reader".to_owned(),
        verifier: verifier.to_owned(),
        created_at: 0,
        valid_until,
    };
    let text = verifier().to_string();
    let known = Verifier::of_user(Some(&user(Some(6), &text)), 5);
    assert!(known.is_some());
    let cases = [
        ("wrong password", known, &wrong),
        ("unknown user", Verifier::of_user(None, 5), &PLAIN),
        (
            "too late",
            Verifier::of_user(Some(&user(Some(5), &text)), 5),
            &PLAIN,
        ),
        (
            "spoiled",
            Verifier::of_user(Some(&user(None, "md5")), 5),
            &PLAIN,
        ),
    ];
    let mut said = Vec::new();
    for (name, verifier, client) in cases {
        let failure = log_in(&mut exchange(verifier, None), SCRAM, client).unwrap_err();
        assert_eq!(failure, refused("ada"), "{name}");
        said.push(failure);
    }
    assert_eq!(
        said[0].to_string(),
        "28P01: password authentication failed for user \"ada\""
    );
    assert_eq!(said[0].severity, crate::server::failure::Severity::Fatal);
}

#[test]
fn an_unknown_name_looks_like_a_known_one() {
    let shape = |exchange: &mut Exchange| {
        let first = exchange.first(SCRAM, &PLAIN.first()).unwrap();
        let first = String::from_utf8(first).unwrap();
        let parts: Vec<String> = first.split(',').map(str::to_owned).collect();
        (parts[0].len(), parts[1].clone(), parts[2].clone())
    };
    let known = shape(&mut exchange(Some(verifier()), None));
    let unknown = shape(&mut exchange(None, None));
    let again = shape(&mut exchange(None, None));
    assert_eq!(
        (known.0, known.1.len(), &known.2),
        (unknown.0, unknown.1.len(), &unknown.2)
    );
    assert_eq!(unknown.1, again.1, "a salt stays with its name");
    let other = Exchange::of("bob", None, None, &mock()).unwrap();
    assert_ne!(other.verifier.salt, exchange(None, None).verifier.salt);
    // The keys of a mock verifier are public: who works them out is refused still.
    let mut doomed = exchange(None, None);
    doomed.verifier = verifier();
    assert_eq!(log_in(&mut doomed, SCRAM, &PLAIN), Err(refused("ada")));
}

#[test]
fn a_broken_first_message_is_refused_in_postgresqls_words() {
    let digest = Some(BOUND.binding);
    let malformed = "08P01: malformed SCRAM message";
    #[allow(clippy::type_complexity)]
    let cases: &[(Option<&[u8]>, &str, &[u8], &str)] = &[
        (
            None,
            "PLAIN",
            b"n,,n=,r=x",
            "08P01: client selected an invalid SASL authentication mechanism",
        ),
        (
            None,
            SCRAM_PLUS,
            b"p=tls-server-end-point,,n=,r=x",
            "08P01: client selected an invalid SASL authentication mechanism",
        ),
        (
            digest,
            SCRAM,
            b"y,,n=,r=x",
            "28000: SCRAM channel binding negotiation error",
        ),
        (digest, SCRAM_PLUS, b"y,,n=,r=x", malformed),
        (digest, SCRAM_PLUS, b"n,,n=,r=x", malformed),
        (
            digest,
            SCRAM_PLUS,
            b"p=tls-unique,,n=,r=x",
            "08P01: unsupported SCRAM channel-binding type",
        ),
        (digest, SCRAM, b"p=tls-server-end-point,,n=,r=x", malformed),
        (
            None,
            SCRAM,
            b"n,a=bob,n=,r=x",
            "0A000: client uses authorization identity, but it is not supported",
        ),
        (
            None,
            SCRAM,
            b"n,,m=x,n=,r=x",
            "0A000: client requires an unsupported SCRAM extension",
        ),
        (
            None,
            SCRAM,
            b"n,,n=,r=",
            "08P01: non-printable characters in SCRAM nonce",
        ),
        (
            None,
            SCRAM,
            b"n,,n=,r=a\x7f",
            "08P01: non-printable characters in SCRAM nonce",
        ),
        (None, SCRAM, b"", malformed),
        (None, SCRAM, b"n", malformed),
        (None, SCRAM, b"x,,n=,r=x", malformed),
        (None, SCRAM, b"n,x,n=,r=x", malformed),
        (None, SCRAM, b"n,,r=x", malformed),
        (None, SCRAM, b"n,,n=x", malformed),
        (None, SCRAM, b"n,,n=,r=x\0", malformed),
        (None, SCRAM, b"n,,n=\xff,r=x", malformed),
        (None, SCRAM, &[b'n'; SCRAM_MESSAGE_BYTES_MAX + 1], malformed),
    ];
    for (binding, mechanism, message, expected) in cases {
        let mut exchange = exchange(Some(verifier()), *binding);
        let failure = exchange.first(mechanism, message).unwrap_err();
        let shown = String::from_utf8_lossy(message);
        assert_eq!(&failure.to_string(), expected, "{mechanism} {shown}");
    }
}

#[test]
fn a_broken_last_message_is_refused_in_postgresqls_words() {
    type Change = fn(String) -> String;
    let cases: &[(bool, Change, &str)] = &[
        (
            false,
            |m| m.replace("c=biws", "c=eSws"),
            "08P01: unexpected SCRAM channel-binding attribute in client-final-message",
        ),
        (
            false,
            |m| m.replace("c=biws", ""),
            "08P01: malformed SCRAM message",
        ),
        (
            false,
            |m| m.replace(",r=r", ",r=s"),
            "08P01: invalid SCRAM response",
        ),
        (
            false,
            |m| m.replace(",p=", ",q="),
            "08P01: malformed SCRAM message",
        ),
        (false, |m| m + ",x=1", "08P01: malformed SCRAM message"),
        (
            false,
            |m| m[..m.len() - 4].to_owned(),
            "08P01: malformed SCRAM message",
        ),
        (
            false,
            |_| "c=biws".to_owned(),
            "08P01: malformed SCRAM message",
        ),
        (
            false,
            |m| m.replace(",p=", ",ext=1,p="),
            "28P01: password authentication failed for user \"ada\"",
        ),
        (true, |m| m, "28000: SCRAM channel binding check failed"),
    ];
    for (bound, change, expected) in cases {
        let (mechanism, client) = match bound {
            // Another certificate than the server's: somebody stands between.
            true => (
                SCRAM_PLUS,
                Client {
                    binding: b"another",
                    ..BOUND
                },
            ),
            false => (SCRAM, PLAIN),
        };
        let binding = bound.then_some(BOUND.binding);
        let mut exchange = exchange(Some(verifier()), binding);
        let first = exchange.first(mechanism, &client.first()).unwrap();
        let (last, _) = client.last(&first);
        let message = change(String::from_utf8(last).unwrap());
        let failure = exchange.last(message.as_bytes()).unwrap_err();
        assert_eq!(&failure.to_string(), expected, "{message}");
    }
    let early = exchange(Some(verifier()), None).last(b"c=biws,r=x,p=y");
    assert_eq!(early.unwrap_err().sqlstate, "08P01");
}

#[test]
fn nothing_shows_a_secret() {
    let exchange = exchange(Some(verifier()), None);
    let shown = format!("{exchange:?} {:?} {:?}", verifier(), mock());
    assert_eq!(
        shown,
        "Exchange { user: \"ada\", .. } Verifier(..) Mock(..)"
    );
}

proptest! {
    #[test]
    fn no_message_panics(
        plus in any::<bool>(),
        bound in any::<bool>(),
        first in prop::collection::vec(any::<u8>(), 0..200),
        likely in "[nyp](=tls-server-end-point)?,(a=b)?,(m=x,)?(n=[a-z,]*)?,?(r=[!-~]{0,20})?(,x=y)?",
        last in "(c=[a-zA-Z0-9+/=]{0,40})?,?(r=[!-~]{0,40})?(,p=[a-zA-Z0-9+/=]{0,60})*",
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mechanism = if plus { SCRAM_PLUS } else { SCRAM };
        let messages: [(&[u8], &[u8]); 3] = [
            (&first, last.as_bytes()),
            (likely.as_bytes(), last.as_bytes()),
            (b"n,,n=,r=abc", &bytes),
        ];
        for (first, last) in messages {
            let mut exchange = exchange(Some(verifier()), bound.then_some(BOUND.binding));
            let _ = exchange.first(mechanism, first);
            prop_assert!(exchange.last(last).is_err());
        }
        let _ = Verifier::parse(&last);
    }
}
