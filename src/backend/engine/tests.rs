use super::*;
use crate::backend::harmony::Template;
use crate::backend::labels::{most_probable, shares};
use crate::backend::{Answer, nano};
use crate::model::tokenizer::Tokenizer;
use futures::FutureExt;
use std::path::Path;

const SPAM: &str = include_str!("../nano/policies/spam.md");
const HATE: &str = include_str!("../nano/policies/hate.md");

type Told = oneshot::Receiver<Result<Reply, BackendError>>;

/// An engine without its thread: the test takes the turns.
struct Bench {
    engine: Engine,
    queue: Queue<Job>,
}

/// One question.
#[derive(Clone)]
struct Asked {
    policy: Arc<PromptPolicy>,
    suffix: Vec<u32>,
    reason: bool,
    lane: Lane,
}

fn policy(text: &str, labels: &[&str]) -> Arc<PromptPolicy> {
    Arc::new(PromptPolicy {
        digest: blake3::hash(text.as_bytes()).to_hex().as_str().into(),
        text: text.trim_end().into(),
        labels: labels.iter().map(|&label| label.into()).collect(),
    })
}

fn model() -> GptOss {
    GptOss::from_bytes(nano::CONFIG, nano::WEIGHTS).unwrap()
}

fn harmony() -> Harmony {
    let tokenizer = Tokenizer::from_bytes(nano::TOKENIZER).unwrap();
    Harmony::new(Arc::new(tokenizer), Template::nano()).unwrap()
}

fn asked(harmony: &Harmony, policy: &Arc<PromptPolicy>, text: &str, reason: bool) -> Asked {
    Asked {
        policy: Arc::clone(policy),
        suffix: harmony.suffix(text).unwrap(),
        reason,
        lane: Lane::Interactive,
    }
}

/// Texts of many lengths, both modes and lanes, two policies, labels of one token and of several.
fn mixed(harmony: &Harmony, n: usize) -> Vec<Asked> {
    let policies = [
        policy(SPAM, &["allowed", "violates"]),
        policy(
            SPAM,
            &["SP2.a", "SP2", "allowed", "violates the law", "violates"],
        ),
        policy(HATE, &["violates", "allowed"]),
    ];
    let text = |n: usize| format!("Text {n}: {}", "win a prize! ".repeat(n * 7 % 23));
    let asked = |n: usize| Asked {
        lane: [Lane::Interactive, Lane::Backfill][n % 5 / 3],
        ..asked(harmony, &policies[n % 3], &text(n), n % 4 == 1)
    };
    (0..n).map(asked).collect()
}

impl Bench {
    fn new(limits: Limits) -> Bench {
        Bench::of(model(), limits)
    }

    fn of(model: GptOss, limits: Limits) -> Bench {
        let work = Arc::default();
        Bench {
            engine: Engine::new(model, Arc::new(harmony()), work, limits),
            queue: Queue::new(1_000),
        }
    }

    fn ask(&self, asked: &Asked) -> Told {
        let (reply, told) = oneshot::channel();
        let Asked { policy, suffix, .. } = asked.clone();
        let harmony = &self.engine.harmony;
        let labels = policy.labels.iter().map(|label| harmony.label(label));
        let job = Job {
            effort: Effort::Low,
            prefix_tokens: harmony.prefix(&policy.text, Effort::Low).unwrap().len(),
            suffix,
            labels: LabelTrie::new(labels.collect()).unwrap(),
            reason: asked.reason,
            reply,
            policy,
        };
        let pushed = self.queue.push(asked.lane, job).now_or_never();
        pushed.unwrap().unwrap();
        told
    }

    fn turn(&mut self) {
        let arrived = self.queue.take(false).unwrap();
        self.engine.turn(arrived);
    }

    fn all(&mut self, asked: &[Asked]) -> Vec<Result<Reply, BackendError>> {
        let told: Vec<Told> = asked.iter().map(|asked| self.ask(asked)).collect();
        self.turn();
        while !self.engine.rows.is_empty() {
            self.turn();
        }
        assert!(self.engine.open.is_empty() && self.engine.policies.is_empty());
        let said = told.into_iter().map(|mut told| told.try_recv().unwrap());
        said.collect()
    }

    fn steps(&self) -> u64 {
        self.engine.work.steps.load(Ordering::Relaxed)
    }

    fn tokens(&self) -> u64 {
        self.engine.work.tokens.load(Ordering::Relaxed)
    }
}

/// What the model says, read straight: one sequence, each call as long as it comes.
fn by_hand(model: &GptOss, harmony: &Harmony, asked: &Asked) -> Reply {
    let mut cache = model.new_cache();
    let read = |ids: &[u32], cache: &mut KvCache| model.step(&mut [Piece { ids, cache }]).unwrap();
    let prefix = harmony.prefix(&asked.policy.text, Effort::Low).unwrap();
    read(&prefix, &mut cache);
    let mut unread = asked.suffix.clone();
    unread.extend(harmony.analysis_header());
    let (mut analysis, mut tokens_out) = (Vec::new(), 0);
    while asked.reason && analysis.len() < harmony.template().analysis_tokens_max {
        let logits = model.all_logits(&read(&unread, &mut cache)).unwrap();
        let legal = |id: u32| id == harmony.end() || harmony.tokenizer().is_ordinary(id);
        let ids = (0u32..).zip(&logits).filter(|(id, _)| legal(*id));
        let best = ids.reduce(|best, next| if next.1 > best.1 { next } else { best });
        let next = best.unwrap().0;
        tokens_out += 1;
        unread.clear();
        if next == harmony.end() {
            break;
        }
        analysis.push(next);
        unread.push(next);
    }
    unread.extend(harmony.final_header());
    let labels = asked.policy.labels.iter().map(|label| harmony.label(label));
    let trie = LabelTrie::new(labels.collect()).unwrap();
    let hidden = read(&unread, &mut cache);
    let mut scores = trie.root(&model.some_logits(&hidden, trie.first_tokens()).unwrap());
    for (number, path) in trie.inner().iter().enumerate() {
        let logits = model.all_logits(&read(path, &mut cache.clone())).unwrap();
        trie.branch(&mut scores, number, &logits, harmony.stop_ids());
    }
    let probabilities = shares(&scores).unwrap();
    let answer = Answer::Label {
        index: most_probable(&probabilities),
        probabilities,
        analysis: asked.reason.then(|| harmony.tokenizer().decode(&analysis)),
        reasoned: asked.reason,
    };
    Reply {
        answer,
        tokens_in: (prefix.len() + asked.suffix.len()) as u64,
        tokens_out,
    }
}

#[test]
fn a_reply_is_the_same_alone_among_others_in_any_order_and_under_any_limits() {
    let (model, harmony) = (model(), harmony());
    let asked = mixed(&harmony, 24);
    let by_hand: Vec<_> = asked
        .iter()
        .map(|asked| Ok(by_hand(&model, &harmony, asked)))
        .collect();
    let one_block = model.own_bytes(0, 1);
    let tight = Limits {
        step_tokens: 70,
        rows: 5,
        kept: 1,
        bytes: 16 * one_block,
        window: 3,
        expected: 5,
        share: 2,
    };
    let mut roomy = Bench::of(model, limits());
    assert!(roomy.all(&asked) == by_hand);
    let tokens = roomy.tokens();
    assert!(
        roomy.steps() < 80,
        "{} steps: rows share them",
        roomy.steps()
    );
    for asked in asked.iter().zip(&by_hand).take(3) {
        assert_eq!(
            roomy.all(std::slice::from_ref(asked.0))[0],
            *asked.1,
            "alone"
        );
    }
    let (mut backwards, mut expected) = (asked, by_hand);
    backwards.reverse();
    expected.reverse();
    let mut tight = Bench::new(tight);
    assert!(tight.all(&backwards) == expected);
    assert!(tight.tokens() >= tokens);
}

#[test]
fn a_text_that_outgrows_its_room_begins_anew_unnoticed() {
    let harmony = harmony();
    let spam = policy(SPAM, &["allowed", "violates"]);
    // The header of the analysis still fits in the smallest room, the answer's does not.
    let asked = [117, 118, 119, 120].map(|length| {
        let lengthening = (1..200).map(|n| asked(&harmony, &spam, &"prize ".repeat(n), true));
        let mut long = lengthening.skip_while(|asked| asked.suffix.len() < length);
        let asked = long.next().unwrap();
        assert!(asked.suffix.len() < 124);
        asked
    });
    let reply: Vec<_> = asked
        .iter()
        .map(|asked| Ok(by_hand(&model(), &harmony, asked)))
        .collect();
    let mut roomy = Bench::new(limits());
    assert!(roomy.all(&asked) == reply);
    let prefix = harmony.prefix(&spam.text, Effort::Low).unwrap().len();
    let room = |tokens| model().own_bytes(prefix, prefix + tokens);
    let mut tight = Bench::new(Limits {
        bytes: model().own_bytes(0, prefix) + 4 * room(128),
        expected: 0,
        ..limits()
    });
    assert!(tight.all(&asked) == reply);
    assert!(tight.tokens() > roomy.tokens(), "some were read twice");
}

#[test]
fn who_leaves_is_in_no_step_after() {
    let harmony = harmony();
    let spam = policy(SPAM, &["allowed", "violates"]);
    let mut bench = Bench::new(limits());
    let ask =
        |bench: &Bench, reason| bench.ask(&asked(&harmony, &spam, "Win a prize now!", reason));
    let (stays, leaves) = (ask(&bench, true), [ask(&bench, true), ask(&bench, true)]);
    while bench.engine.work.decoded.load(Ordering::Relaxed) < 3 {
        bench.turn();
    }
    let tokens = bench.tokens();
    bench.turn();
    assert_eq!(bench.tokens(), tokens + 3, "each decodes");
    drop(leaves);
    bench.turn();
    assert_eq!((bench.tokens(), bench.engine.rows.len()), (tokens + 4, 1));
    drop(stays);
    let steps = bench.steps();
    bench.turn();
    assert_eq!((bench.steps(), bench.engine.rows.len()), (steps, 0));

    // Also one who waits, and one whose policy is being read.
    let gone = ask(&bench, false);
    drop(gone);
    bench.turn();
    assert_eq!(bench.steps(), steps);
    let hate = policy(HATE, &["allowed", "violates"]);
    let left = bench.ask(&asked(&harmony, &hate, "x", false));
    bench.turn();
    assert_eq!(bench.steps(), steps + 1);
    drop(left);
    bench.turn();
    assert_eq!((bench.steps(), bench.engine.open.len()), (steps + 1, 0));
}

#[test]
fn the_interactive_lane_does_not_wait_for_the_backfill() {
    let harmony = harmony();
    let spam = policy(SPAM, &["allowed", "violates"]);
    let few = Limits {
        rows: 8,
        kept: 2,
        step_tokens: 64,
        ..limits()
    };
    let mut bench = Bench::new(few);
    let mut one = asked(&harmony, &spam, "Win a prize now!", false);
    one.lane = Lane::Backfill;
    let mut backfill: Vec<Told> = (0..40).map(|_| bench.ask(&one)).collect();
    let answered = |told: &mut [Told]| told.iter_mut().filter_map(|t| t.try_recv().ok()).count();
    let mut before = 0;
    while before == 0 {
        bench.turn();
        before = answered(&mut backfill);
    }
    one.lane = Lane::Interactive;
    let mut interactive = bench.ask(&one);
    let mut meanwhile = 0;
    while interactive.try_recv().is_err() {
        bench.turn();
        meanwhile += answered(&mut backfill);
    }
    assert!(meanwhile <= 8, "{meanwhile} of {} went first", 40 - before);
}

#[test]
fn a_text_that_the_model_fails_on_fails_alone() {
    let (model, harmony) = (model(), harmony());
    let mut asked = mixed(&harmony, 9);
    let mut expected: Vec<_> = asked
        .iter()
        .map(|asked| Ok(by_hand(&model, &harmony, asked)))
        .collect();
    let limit = model.config().max_position_embeddings;
    for (place, suffix, why) in [
        (
            2,
            vec![9_000],
            "token id 9000 is outside the vocabulary of 8192".to_owned(),
        ),
        (5, vec![5; limit], "max_position_embeddings".to_owned()),
    ] {
        asked[place].suffix = suffix;
        expected[place] = Err(BackendError::Model(why));
    }
    let said = Bench::of(model, limits()).all(&asked);
    for (said, expected) in said.into_iter().zip(expected) {
        match (said, expected) {
            (Err(BackendError::Model(said)), Err(BackendError::Model(why))) => {
                assert!(said.contains(&why), "{said}");
            }
            (said, expected) => assert_eq!(said, expected),
        }
    }
}

#[test]
fn a_model_on_a_device_replies_as_on_the_host() {
    let asked = mixed(&harmony(), 24);
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/nano");
    let moved = GptOss::open_on(&nano, Some(&candle_core::Device::Cpu)).unwrap();
    assert_eq!(moved.digest(), model().digest());
    // Few rows at a time and small steps: prefixes are read in parts, and texts begin and end beside others.
    let small = Limits {
        step_tokens: 200,
        rows: 5,
        kept: 2,
        ..limits()
    };
    let moved = Bench::of(moved, small).all(&asked);
    let host = Bench::new(limits()).all(&asked);
    for (moved, host) in moved.into_iter().zip(host) {
        let (moved, host) = (moved.unwrap(), host.unwrap());
        assert_eq!(
            (moved.tokens_in, moved.tokens_out),
            (host.tokens_in, host.tokens_out)
        );
        let label = |reply: Reply| match reply.answer {
            Answer::Label {
                index,
                probabilities,
                analysis,
                reasoned,
            } => (index, analysis, reasoned, probabilities),
            Answer::None(_) | Answer::TooLong { .. } => panic!("{reply:?}"),
        };
        let (moved, host) = (label(moved), label(host));
        assert_eq!(
            (moved.0, &moved.1, moved.2),
            (host.0, &host.1, host.2),
            "label and analysis"
        );
        let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-3;
        assert!(
            moved.3.iter().zip(&host.3).all(near),
            "{:?} {:?}",
            moved.3,
            host.3
        );
    }
}

#[test]
fn a_model_that_fails_always_fails_each_text() {
    // Its vocabulary is smaller than the tokenizer's.
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/tiny");
    let mut bench = Bench::of(GptOss::open(&tiny).unwrap(), limits());
    for _ in 0..2 {
        let asked = mixed(&harmony(), 6);
        for said in bench.all(&asked) {
            let Err(BackendError::Model(why)) = said else {
                panic!("{said:?}")
            };
            assert!(why.contains("is outside the vocabulary"), "{why}");
        }
    }
}

#[test]
fn who_waits_for_an_engine_that_ends_is_told() {
    let harmony = harmony();
    let mut bench = Bench::new(limits());
    let asked = mixed(&harmony, 4);
    let told: Vec<Told> = asked.iter().map(|asked| bench.ask(asked)).collect();
    bench.turn();
    let waits = bench.ask(&asked[0]);
    let Bench { engine, queue } = bench;
    queue.close();
    engine.run(&queue);
    for mut told in told.into_iter().chain([waits]) {
        assert_eq!(told.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
