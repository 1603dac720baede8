//! `SET safeguard.*`: what a connection may choose.
//!
//! Takes text, gives checked values; a value that is not understood is refused with the words that are. Knows the
//! settings' names, defaults and meanings. Does not know who obeys them.

use datafusion::common::{DataFusionError, Result};
use datafusion::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use std::any::Any;
use std::fmt;
use std::str::FromStr;

/// Declares a setting whose values are words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The word in SQL.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(word: &str) -> std::result::Result<Self, String> {
                match word.to_ascii_lowercase().as_str() {
                    $($word => Ok($name::$variant),)+
                    _ => Err([$($word),+].join(", ")),
                }
            }
        }
    };
}

words! {
    /// How the reasoner reaches a label.
    Mode {
        /// Score, and reason only where the calibrated gap is small; without a calibration, reason.
        #[default]
        Auto = "auto",
        /// Read the label from the logits behind an empty analysis.
        Score = "score",
        /// Decode an analysis first.
        Reason = "reason",
    }
}

words! {
    /// How much the model is told to think.
    Effort {
        /// `Reasoning: low`
        #[default]
        Low = "low",
        /// `Reasoning: medium`
        Medium = "medium",
        /// `Reasoning: high`
        High = "high",
    }
}

words! {
    /// Whether a statement waits for the model.
    Answer {
        /// Judge now.
        #[default]
        Wait = "wait",
        /// Come back at once with `undecided: queued` and judge in the background.
        Queue = "queue",
        /// Never ask: only what is stored; the rest is `undecided: budget`.
        Stored = "stored",
    }
}

words! {
    /// Which work goes first.
    Lane {
        /// Someone waits.
        #[default]
        Interactive = "interactive",
        /// Nobody waits.
        Backfill = "backfill",
    }
}

/// A connection's `safeguard.*` settings.
#[derive(Debug, Clone, PartialEq)]
pub struct SafeguardSettings {
    /// How the reasoner reaches a label.
    pub mode: Mode,
    /// How much the model is told to think.
    pub effort: Effort,
    /// Whether a statement waits for the model.
    pub answer: Answer,
    /// Whether screens may clear before the reasoner.
    pub screen: bool,
    /// Which work goes first.
    pub lane: Lane,
    /// Most texts that one statement may have asked, however often each; past it the rest is `undecided: budget`.
    pub max_rows: Option<u64>,
    /// Most tokens, prompt and decoded, that one statement may spend. A question is put while there is room for its prompt
    /// and the most that may be decoded.
    pub max_tokens: Option<u64>,
    /// Most seconds in which one statement may ask; what is not answered by then is `undecided: budget`.
    pub max_seconds: Option<f64>,
    /// A statement fails once more than this share of its texts is undecided; 1 never fails.
    pub max_undecided_ratio: f64,
    /// Ask again what was stored as undecided.
    pub retry_undecided: bool,
}

impl Default for SafeguardSettings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            effort: Effort::default(),
            answer: Answer::default(),
            screen: true,
            lane: Lane::default(),
            max_rows: None,
            max_tokens: None,
            max_seconds: None,
            max_undecided_ratio: 1.0,
            retry_undecided: false,
        }
    }
}

/// The words for "no limit".
const NO_LIMIT: [&str; 3] = ["none", "off", "default"];

fn refused(key: &str, value: &str, wanted: &str) -> DataFusionError {
    DataFusionError::Configuration(format!(
        "safeguard.{key} = '{value}' is not one of: {wanted}"
    ))
}

fn word<T: FromStr<Err = String>>(key: &str, value: &str) -> Result<T> {
    value
        .parse()
        .map_err(|wanted: String| refused(key, value, &wanted))
}

fn switch(key: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err(refused(key, value, "on, off")),
    }
}

fn limit<T: FromStr>(
    key: &str,
    value: &str,
    fits: impl Fn(&T) -> bool,
    wanted: &str,
) -> Result<Option<T>> {
    if NO_LIMIT.contains(&value.to_ascii_lowercase().as_str()) {
        return Ok(None);
    }
    match value.parse() {
        Ok(number) if fits(&number) => Ok(Some(number)),
        _ => Err(refused(key, value, &format!("none, {wanted}"))),
    }
}

fn show<T: ToString>(limit: &Option<T>) -> String {
    limit
        .as_ref()
        .map_or_else(|| "none".to_owned(), T::to_string)
}

impl ConfigExtension for SafeguardSettings {
    const PREFIX: &'static str = "safeguard";
}

// By hand, because `extensions_options!` leaves the prefix out of `entries()`, and with it `SHOW` and
// `information_schema.df_settings` know `mode` but not `safeguard.mode`.
impl ExtensionOptions for SafeguardSettings {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "mode" => self.mode = word(key, value)?,
            "effort" => self.effort = word(key, value)?,
            "answer" => self.answer = word(key, value)?,
            "screen" => self.screen = switch(key, value)?,
            "lane" => self.lane = word(key, value)?,
            "max_rows" => self.max_rows = limit(key, value, |_| true, "a whole number")?,
            "max_tokens" => self.max_tokens = limit(key, value, |_| true, "a whole number")?,
            "max_seconds" => {
                let fits = |s: &f64| s.is_finite() && *s >= 0.0;
                self.max_seconds = limit(key, value, fits, "a number of seconds")?;
            }
            "max_undecided_ratio" => {
                let fits = |r: &f64| (0.0..=1.0).contains(r);
                let ratio = limit(key, value, fits, "a number from 0 to 1")?;
                self.max_undecided_ratio = ratio.unwrap_or(1.0);
            }
            "retry_undecided" => self.retry_undecided = switch(key, value)?,
            _ => {
                let known: Vec<String> = self.entries().into_iter().map(|e| e.key).collect();
                return Err(DataFusionError::Configuration(format!(
                    "setting \"safeguard.{key}\" does not exist; there are: {}",
                    known.join(", ")
                )));
            }
        }
        Ok(())
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let on_off = |on: bool| if on { "on" } else { "off" }.to_owned();
        let entry = |key: &str, value: String, description: &'static str| ConfigEntry {
            key: format!("safeguard.{key}"),
            value: Some(value),
            description,
        };
        vec![
            entry(
                "mode",
                self.mode.to_string(),
                "how the reasoner reaches a label: auto, score, reason",
            ),
            entry(
                "effort",
                self.effort.to_string(),
                "how much the model is told to think: low, medium, high",
            ),
            entry(
                "answer",
                self.answer.to_string(),
                "whether a statement waits for the model: wait, queue, stored",
            ),
            entry(
                "screen",
                on_off(self.screen),
                "whether screens may clear before the reasoner: on, off",
            ),
            entry(
                "lane",
                self.lane.to_string(),
                "which work goes first: interactive, backfill",
            ),
            entry(
                "max_rows",
                show(&self.max_rows),
                "most texts that a statement may have asked",
            ),
            entry(
                "max_tokens",
                show(&self.max_tokens),
                "most tokens that a statement may spend",
            ),
            entry(
                "max_seconds",
                show(&self.max_seconds),
                "most seconds in which a statement may ask",
            ),
            entry(
                "max_undecided_ratio",
                self.max_undecided_ratio.to_string(),
                "a statement fails once more than this share of its texts is undecided; 1 never fails",
            ),
            entry(
                "retry_undecided",
                on_off(self.retry_undecided),
                "ask again what was stored as undecided: on, off",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_takes_its_words_and_refuses_others() {
        let cases = [
            ("mode", "score", "score"),
            ("mode", "REASON", "reason"),
            (
                "mode",
                "fast",
                "safeguard.mode = 'fast' is not one of: auto, score, reason",
            ),
            ("effort", "high", "high"),
            (
                "answer",
                "never",
                "safeguard.answer = 'never' is not one of: wait, queue, stored",
            ),
            ("screen", "false", "off"),
            (
                "screen",
                "maybe",
                "safeguard.screen = 'maybe' is not one of: on, off",
            ),
            ("lane", "backfill", "backfill"),
            ("max_rows", "10", "10"),
            ("max_rows", "none", "none"),
            (
                "max_rows",
                "-1",
                "safeguard.max_rows = '-1' is not one of: none, a whole number",
            ),
            ("max_seconds", "1.5", "1.5"),
            (
                "max_seconds",
                "NaN",
                "safeguard.max_seconds = 'NaN' is not one of: none, a number of seconds",
            ),
            ("max_undecided_ratio", "0.25", "0.25"),
            (
                "max_undecided_ratio",
                "2",
                "safeguard.max_undecided_ratio = '2' is not one of: none, a number from 0 to 1",
            ),
            ("retry_undecided", "on", "on"),
        ];
        for (key, value, want) in cases {
            let mut settings = SafeguardSettings::default();
            let got = match settings.set(key, value) {
                Ok(()) => {
                    let name = format!("safeguard.{key}");
                    let entry = settings.entries().into_iter().find(|e| e.key == name);
                    entry.and_then(|e| e.value).unwrap()
                }
                Err(e) => e
                    .strip_backtrace()
                    .replace("Invalid or Unsupported Configuration: ", ""),
            };
            assert_eq!(got, want, "{key} = {value}");
        }
    }
}
