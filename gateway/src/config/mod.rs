//! The configuration: from an OpenVPN server file (and the command line) to one typed [`Config`].
//!
//! [`lex()`] splits a text, [`load()`] settles every directive by one table and says so in a [`Report`], and
//! [`check_host`] holds the result against the machine: files, programs, users.

mod build;
pub mod diagnostic;
mod directives;
mod host;
pub mod lex;
mod load;
mod model;
mod report;

pub use diagnostic::{Diagnostic, Place, Severity};
pub use host::check_host;
pub use lex::{Arg, Directive, lex};
pub use load::{MAX_DEPTH, MAX_DIRECTIVES, include, load, load_text};
pub use model::*;
pub use report::{Report, Row, Verdict};
