//! What budgets and limits would leave of a statement, by its estimate.
//!
//! Takes what the classifications come to in all, gives a line for each setting that may stop them. Reads no rows.

use super::Estimator;
use crate::error::Error;
use safeguard_udfs::{Answer, SafeguardSettings};

/// What may be spent, and what would be.
pub(super) struct Budget {
    name: String,
    /// Whether it counts texts.
    exact: bool,
    /// `None` where it is not known.
    needs: Option<f64>,
    has: f64,
}

impl Budget {
    fn said(&self, asked: f64) -> String {
        let name = &self.name;
        match self.needs {
            None => format!("  {name} leaves an unknown number of texts undecided"),
            Some(needs) if needs <= self.has => format!("  {name} is enough"),
            Some(needs) => {
                let left = (asked * (1.0 - self.has / needs)).ceil();
                let about = if self.exact { "" } else { "about " };
                format!("  {name} leaves {about}{left:.0} texts undecided: budget")
            }
        }
    }
}

impl Estimator {
    /// What the limits of whoever pays leave of this day: the limit, what is left of it, and what the statement needs.
    pub(super) async fn day(&self) -> Result<Vec<Budget>, Error> {
        let Some(payer) = self.payer else {
            return Ok(Vec::new());
        };
        let (limits, total) = (self.engine.limits(), &self.total);
        let left = limits.left(payer).await?;
        let most = limits.of(payer);
        let budget = |key: &str, most: u64, left: u64, needs| Budget {
            name: format!("limits.{payer}.{key} = {most}, with {left} left today,"),
            exact: false,
            needs,
            has: left as f64,
        };
        let asked = most
            .asked_per_day
            .map(|most| budget("asked_per_day", most, left.questions, Some(total.questions)));
        let needs = total.seconds.map(|_| total.tokens);
        let tokens = most
            .tokens_per_day
            .map(|most| budget("tokens_per_day", most, left.tokens, needs));
        Ok(asked.into_iter().chain(tokens).collect())
    }

    /// What the statement's settings and these limits leave of it.
    pub(super) fn budgets(&self, day: Vec<Budget>) -> Option<String> {
        let settings: &SafeguardSettings = self.statement.settings();
        let total = &self.total;
        let mut lines = Vec::new();
        if total.classifications > 1 {
            lines.push(format!(
                "  to be asked: {:.0} distinct texts of all calls",
                total.asked
            ));
        }
        let asked = total.asked;
        match settings.answer {
            Answer::Wait => {}
            Answer::Stored => lines.push(format!(
                "  safeguard.answer = stored asks nothing: {asked:.0} texts would be undecided: budget"
            )),
            Answer::Queue => lines.push(format!(
                "  safeguard.answer = queue asks nothing now: {asked:.0} texts would be undecided: queued"
            )),
        }
        let setting = |name: &str, most: String, needs, has| Budget {
            name: format!("safeguard.{name} = {most}"),
            exact: name == "max_rows",
            needs,
            has,
        };
        let mut budgets = Vec::new();
        if let Some(most) = settings.max_rows {
            let most_rows = most as f64;
            budgets.push(setting(
                "max_rows",
                most.to_string(),
                Some(asked),
                most_rows,
            ));
        }
        if let Some(most) = settings.max_tokens {
            let needs = total.seconds.map(|_| total.tokens);
            budgets.push(setting("max_tokens", most.to_string(), needs, most as f64));
        }
        if let Some(most) = settings.max_seconds {
            budgets.push(setting(
                "max_seconds",
                most.to_string(),
                total.seconds,
                most,
            ));
        }
        if settings.answer == Answer::Wait {
            let all = budgets.into_iter().chain(day);
            lines.extend(all.map(|budget| budget.said(asked)));
        }
        if total.unknown && !lines.is_empty() {
            lines.push("  without the calls that are unknown".to_owned());
        }
        (!lines.is_empty()).then(|| format!("statement\n{}", lines.join("\n")))
    }
}
