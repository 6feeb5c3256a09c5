//! A connection from its first bytes to its end.
//!
//! `hello` and `arbiter` say who is there and which connection counts; `greet` carries that out; `tend` runs the lanes
//! of a connection that is in use; `close` says why it ends.

mod arbiter;
mod close;
mod greet;
mod hello;
mod input;
mod lanes;
mod tend;

pub(crate) use arbiter::Held;
pub(crate) use close::CloseCode;
pub(crate) use greet::{GreetError, greet_accepted, greet_dialed};
pub(crate) use hello::{Hello, LinkName, fuzz_hello};
pub(crate) use input::{Input, InputError};
pub(crate) use tend::tend;
