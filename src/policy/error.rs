//! What can be wrong with a policy, a golden set or a reference to one.
//!
//! Every message names the policy, file or line it is about. Whoever reports one to a client adds the SQLSTATE.

use safeguard_udfs::classifier::ClassifyError;

/// Why a policy cannot be used or found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No policy of this name or version.
    #[error("policy \"{name}\" does not exist")]
    Unknown {
        /// As SQL gave it, cut when it is long.
        name: String,
        /// Registered names, or versions of the name, nearest to it, best first.
        near: Vec<String>,
    },
    /// The policy's source cannot be used.
    #[error("policy \"{name}\" is not usable: {why}")]
    Invalid {
        /// Its name, or `inline`.
        name: String,
        /// What is wrong, and the limit where there is one.
        why: String,
    },
    /// The golden set does not fit its policy.
    #[error("golden set of policy \"{name}\", line {line}: {why}")]
    Golden {
        /// The policy's name.
        name: String,
        /// Line of the file, from 1, where the row begins.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// A file of the policies folder cannot be read or used.
    #[error("{path}: {why}")]
    File {
        /// The file or folder.
        path: String,
        /// What is wrong.
        why: String,
    },
}

impl PolicyError {
    pub(crate) fn invalid(name: impl Into<String>, why: impl Into<String>) -> PolicyError {
        PolicyError::Invalid {
            name: name.into(),
            why: why.into(),
        }
    }
}

impl From<PolicyError> for ClassifyError {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::Unknown { name, near } => ClassifyError::UnknownPolicy { name, near },
            PolicyError::Invalid { name, why } => ClassifyError::InvalidPolicy { name, why },
            PolicyError::Golden { ref name, .. } => ClassifyError::InvalidPolicy {
                name: name.clone(),
                why: error.to_string(),
            },
            PolicyError::File { path, why } => ClassifyError::InvalidPolicy { name: path, why },
        }
    }
}
