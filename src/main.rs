//! The `safeguard` command.

fn main() {}
