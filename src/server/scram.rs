//! temporary
#![allow(missing_docs)]
use super::failure::Failure;
pub struct Exchange; pub struct Mock;
impl Exchange {
 pub fn new<T>(_: &str, _: Option<&T>, _: Option<Vec<u8>>, _: &Mock) -> Result<Exchange, Failure> { Ok(Exchange) }
 pub fn mechanisms(&self) -> Vec<&'static str> { vec![] }
 pub fn first(&mut self, _: &str, _: &[u8]) -> Result<Vec<u8>, Failure> { Err(refused("")) }
 pub fn last(&mut self, _: &[u8]) -> Result<Vec<u8>, Failure> { Err(refused("")) }
}
pub fn refused(user: &str) -> Failure { Failure::fatal("28P01", format!("password authentication failed for user \"{user}\"")) }
