//! Screens: small classifiers that clear what surely does not violate, and certificates of what they miss.

pub mod certify;
pub mod sample;
