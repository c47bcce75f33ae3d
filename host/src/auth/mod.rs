//! Who a client is: the users file, the SASL mechanisms that prove it, and the checks behind them.
//!
//! [`Users`] is the users file as it was read, [`Exchange`] one AUTH dialog (it opens no socket and knows no clock),
//! [`edit`] what `gatepost user` does to the file. No password is ever stored, logged or shown; those in memory are
//! wiped when dropped. A check that cannot be made in time is [`Unavailable`], which is a 454 and never a success.

pub mod edit;
mod hash;
pub mod sasl;
pub mod scram;
mod users;

pub use hash::Unavailable;
pub use sasl::{Exchange, Failure, Login, MECHANISMS, Step};
pub use users::{User, UserError, Users, UsersErrors};
