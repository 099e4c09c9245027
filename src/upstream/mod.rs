//! One server connection: how it is opened and logged in to, what it owes, how it is mended and put in order.

pub mod owed;
