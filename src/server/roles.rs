//! temporary
#![allow(missing_docs)]
use super::failure::Failure;
use datafusion::logical_expr::LogicalPlan;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role { Reader, Analyst, Admin }
impl Role {
    pub fn parse(s: &str) -> Option<Role> { match s { "reader" => Some(Role::Reader), "analyst" => Some(Role::Analyst), "admin" => Some(Role::Admin), _ => None } }
    pub fn as_str(self) -> &'static str { match self { Role::Reader => "reader", Role::Analyst => "analyst", Role::Admin => "admin" } }
}
pub fn check(_: Role, _: &LogicalPlan) -> Result<(), Failure> { Ok(()) }
