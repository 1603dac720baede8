//! What can be typed after `cargo run --release --example simulate --`.
//!
//! Takes arguments, gives them checked. Every default that is not a limit of the program is a guess or a published
//! figure, and its help says which.

use clap::Parser;
use safeguard::config::{BACKFILL_CHUNK_ROWS, BACKFILL_WORKERS, ENDPOINT_REPLICAS_MAX};

/// Replay a day at a billion rows against the program's own scheduling, claims and budgets
///
/// Time is simulated: the same seed gives the same output, byte for byte. Exit code: 0 when every row is accounted for, 1
/// when one is not, 2 when called wrongly.
#[derive(Debug, Clone, Parser)]
#[command(name = "simulate")]
pub struct Options {
    /// Rows that are stored when the day begins
    #[arg(long, default_value_t = 1_000_000_000)]
    pub rows: u64,
    /// Rows that arrive in a day; one in fifty of the stored ones where nobody says
    #[arg(long)]
    pub arrivals: Option<u64>,
    /// Replicas of the model, each on one GPU
    #[arg(long, default_value_t = 16)]
    pub replicas: usize,
    /// Servers of this program, which share the replicas and the store
    #[arg(long, default_value_t = 32)]
    pub servers: usize,
    /// Chunks that a server has in hand at once; as shipped where nobody says
    #[arg(long, default_value_t = BACKFILL_WORKERS)]
    pub workers: usize,
    /// What chance begins with
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Hour at which a new version of the policy is published and everything stored is judged again
    #[arg(long, default_value_t = 6.0)]
    pub edit_at: f64,
    /// Replicas that are lost: connections are refused
    #[arg(long, default_value_t = 4)]
    pub lost: usize,
    /// Hour at which they are lost
    #[arg(long, default_value_t = 10.0)]
    pub lost_at: f64,
    /// Hours until they are back
    #[arg(long, default_value_t = 2.0)]
    pub lost_for: f64,
    /// Replicas that hang with the loss: they take requests and answer nothing
    #[arg(long, default_value_t = 1)]
    pub hung: usize,
    /// Servers that are killed with the loss, and begun again when the replicas are back
    #[arg(long, default_value_t = 1)]
    pub killed: usize,
    /// Tokens that the backfill may spend in a day (UTC): `limits.admin.tokens_per_day`
    #[arg(long)]
    pub backfill_tokens_per_day: Option<u64>,
    /// Questions that fresh rows may put in a day (UTC): `limits.analyst.asked_per_day`
    #[arg(long)]
    pub fresh_asked_per_day: Option<u64>,
    /// Tokens that the backfill may spend in all: `budget` of safeguard_backfill
    #[arg(long)]
    pub budget: Option<u64>,
    /// Share of rows whose text is a repost; a guess
    #[arg(long, default_value_t = 0.4)]
    pub reposted: f64,
    /// Share of texts that the screen clears; between 0.08 and 0.98 for the shipped ones on their own sets, here a guess
    #[arg(long, default_value_t = 0.9)]
    pub cleared: f64,
    /// Share of asked texts without a label (cut, refused, contradictory); a guess
    #[arg(long, default_value_t = 0.005)]
    pub undecided: f64,
    /// Tokens of the policy with its frame
    #[arg(long, default_value_t = 800)]
    pub policy_tokens: u64,
    /// Tokens of a text in the mean; a guess
    #[arg(long, default_value_t = 60)]
    pub text_tokens: u64,
    /// Tokens of an analysis in the mean, effort low; a guess
    #[arg(long, default_value_t = 150)]
    pub decode_tokens: u64,
    /// Share of questions whose policy a replica has in its prefix cache; a guess
    #[arg(long, default_value_t = 0.98)]
    pub prefix_hits: f64,
    /// Prompt tokens that a replica reads in a second: a 20b model on an H100 at a quarter of its arithmetic
    #[arg(long, default_value_t = 40_000.0)]
    pub prefill_rate: f64,
    /// Milliseconds of a step of the model, whatever it reads; a guess
    #[arg(long, default_value_t = 5.0)]
    pub step_ms: f64,
    /// Microseconds that each decoding text adds to a step; with the step's own, 18,000 tokens/s at 256 texts
    #[arg(long, default_value_t = 35.0)]
    pub row_us: f64,
    /// Texts that a replica decodes at once
    #[arg(long, default_value_t = 256)]
    pub batch: usize,
    /// Milliseconds of a statement of the store; a guess
    #[arg(long, default_value_t = 0.5)]
    pub store_ms: f64,
    /// Rows that are spooled in a second; a guess
    #[arg(long, default_value_t = 200_000.0)]
    pub spool_rate: f64,
    /// Price of a GPU for an hour; a guess
    #[arg(long, default_value_t = 2.5)]
    pub price: f64,
    /// Hours after which what is left is counted as left
    #[arg(long, default_value_t = 72.0)]
    pub hours: f64,
    /// Rows that one row of the store stands for: a power of two up to a chunk's rows; by the number of rows where nobody
    /// says
    #[arg(long)]
    pub grain: Option<u64>,
    /// A million rows, two replicas, two servers, one killed, one replica lost: seconds
    #[arg(long)]
    pub small: bool,
}

impl Options {
    /// From the command line; ends the program where it means nothing.
    pub fn typed() -> Options {
        let mut options = Options::parse();
        if options.small {
            options.shrink();
        }
        if let Err(why) = options.check() {
            eprintln!("ERROR: {why}");
            std::process::exit(2);
        }
        options
    }

    /// What `--small` changes.
    pub fn shrink(&mut self) {
        (self.rows, self.replicas, self.servers) = (1_000_000, 2, 2);
        (self.lost, self.hung, self.killed) = (1, 0, 1);
        (self.edit_at, self.lost_at, self.lost_for) = (6.0, 6.05, 0.2);
    }

    /// Whether it can be played.
    pub fn check(&self) -> Result<(), String> {
        let share = |name: &str, share: f64| match (0.0..=1.0).contains(&share) {
            true => Ok(()),
            false => Err(format!("--{name} {share} is not a share from 0 to 1")),
        };
        share("reposted", self.reposted)?;
        share("cleared", self.cleared)?;
        share("undecided", self.undecided)?;
        share("prefix-hits", self.prefix_hits)?;
        let above = |name: &str, n: f64| match n > 0.0 && n.is_finite() {
            true => Ok(()),
            false => Err(format!("--{name} {n} is not a number above 0")),
        };
        above("rows", self.rows as f64)?;
        above("servers", self.servers as f64)?;
        above("workers", self.workers as f64)?;
        above("text-tokens", self.text_tokens as f64)?;
        above("decode-tokens", self.decode_tokens as f64)?;
        above("policy-tokens", self.policy_tokens as f64)?;
        above("prefill-rate", self.prefill_rate)?;
        above("step-ms", self.step_ms)?;
        above("batch", self.batch as f64)?;
        above("spool-rate", self.spool_rate)?;
        above("hours", self.hours)?;
        for (name, hour) in [
            ("edit-at", self.edit_at),
            ("lost-at", self.lost_at),
            ("lost-for", self.lost_for),
            ("row-us", self.row_us),
            ("store-ms", self.store_ms),
            ("price", self.price),
        ] {
            if !(0.0..=1e6).contains(&hour) {
                return Err(format!("--{name} {hour} is not a number from 0 to 1000000"));
            }
        }
        if self.edit_at >= 24.0 {
            return Err(format!(
                "--edit-at {} is not an hour of the day",
                self.edit_at
            ));
        }
        if self.replicas == 0 || self.replicas > ENDPOINT_REPLICAS_MAX {
            return Err(format!(
                "--replicas {} is not from 1 to {ENDPOINT_REPLICAS_MAX}",
                self.replicas
            ));
        }
        if self.lost + self.hung > self.replicas {
            return Err(format!(
                "{} lost and {} hung are more than {} replicas",
                self.lost, self.hung, self.replicas
            ));
        }
        if self.killed >= self.servers {
            return Err(format!(
                "--killed {} leaves none of {} servers",
                self.killed, self.servers
            ));
        }
        let grain = self.grain();
        if !grain.is_power_of_two() || grain > BACKFILL_CHUNK_ROWS as u64 {
            return Err(format!(
                "--grain {grain} is not a power of two up to {BACKFILL_CHUNK_ROWS}"
            ));
        }
        Ok(())
    }

    /// Rows that arrive in a day.
    pub fn arrivals(&self) -> u64 {
        self.arrivals.unwrap_or(self.rows / 50)
    }

    /// Rows that one row of the store stands for: so many that the store has about four million.
    pub fn grain(&self) -> u64 {
        let wanted = (self.rows / 4_000_000).next_power_of_two();
        self.grain.unwrap_or(wanted.min(BACKFILL_CHUNK_ROWS as u64))
    }
}
