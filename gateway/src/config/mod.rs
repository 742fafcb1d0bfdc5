//! The configuration: from an OpenVPN server file (and the command line) to one typed [`Config`].

pub mod diagnostic;
pub mod lex;
mod model;

pub use diagnostic::{Diagnostic, Place, Severity};
pub use lex::{Arg, Directive, lex};
pub use model::*;
