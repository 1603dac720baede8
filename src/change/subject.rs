//! What is measured: a policy, published or not, and its golden rows with what people said besides.

use crate::classify::calibrate::Golden;
use crate::policy::golden::GoldenRow;
use crate::policy::{Policy, Version};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A policy and the texts that it is measured on.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its name.
    pub name: Arc<str>,
    /// Its version; 0 for a text that is not published.
    pub version: u32,
    /// As the classifier takes it: a pinned version, or a text.
    pub(super) reference: Arc<str>,
    pub(super) digest: Arc<str>,
    pub(super) policy: Arc<Policy>,
    pub(super) golden: Golden,
    /// Texts whose label is a person's.
    pub(super) spoken: HashSet<Arc<str>>,
}

impl Subject {
    /// A version, pinned.
    pub fn version(version: &Version, golden: Option<Golden>) -> Subject {
        let inline = || format!("{}\n", version.policy.source).into();
        Subject {
            name: Arc::clone(&version.name),
            version: version.number,
            reference: match version.number {
                0 => inline(),
                _ => version.reference(),
            },
            digest: Arc::clone(&version.digest),
            policy: Arc::clone(&version.policy),
            golden: golden.unwrap_or_else(|| Golden {
                source: "".into(),
                rows: Vec::new(),
            }),
            spoken: HashSet::new(),
        }
    }

    /// A policy that is not published, such as a file's.
    pub fn draft(policy: Policy, golden: Golden) -> Subject {
        let digest = policy.digest().into();
        Subject {
            name: Arc::clone(&policy.name),
            version: 0,
            reference: format!("{}\n", policy.source).into(),
            digest,
            policy: Arc::new(policy),
            golden,
            spoken: HashSet::new(),
        }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// How many texts there are.
    pub fn rows(&self) -> usize {
        self.golden.rows.len()
    }

    /// `hate@3`, or the name of a text that is not published.
    pub fn said(&self) -> String {
        match self.version {
            0 => self.name.to_string(),
            number => format!("{}@{number}", self.name),
        }
    }

    /// Takes the labels that people gave, which win over golden ones of the same texts. Gives how many were passed over
    /// because this version does not declare them.
    pub fn take_spoken(&mut self, spoken: Vec<(String, String)>) -> u64 {
        let mut places: HashMap<Arc<str>, usize> = HashMap::new();
        for (place, row) in self.golden.rows.iter().enumerate() {
            places.insert(Arc::clone(&row.text), place);
        }
        let mut passed_over = 0;
        for (text, label) in spoken.into_iter().filter(|(t, _)| !t.trim().is_empty()) {
            let known = self.policy.labels.iter().find(|known| ***known == *label);
            let Some(label) = known.map(Arc::clone) else {
                passed_over += 1;
                continue;
            };
            let text: Arc<str> = text.into();
            self.spoken.insert(Arc::clone(&text));
            match places.get(&text) {
                Some(place) => self.golden.rows[*place].label = label,
                None => self.golden.rows.push(GoldenRow { text, label }),
            }
        }
        if !self.spoken.is_empty() {
            let n = self.spoken.len();
            let said = format!("{n} override{}", if n == 1 { "" } else { "s" });
            self.golden.source = match self.golden.source.is_empty() {
                true => said.into(),
                false => format!("{} + {said}", self.golden.source).into(),
            };
        }
        passed_over
    }

    /// The texts, in the order of the golden rows.
    pub(super) fn texts(&self) -> Vec<Arc<str>> {
        let texts = self.golden.rows.iter().map(|row| Arc::clone(&row.text));
        texts.collect()
    }
}
