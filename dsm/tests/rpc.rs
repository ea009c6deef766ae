//! Calls between nodes of one process, with the stubs that the generator's golden files hold: all kinds
//! of calls, and everything that can go wrong with them. The test chooses the order of delivery.

#[path = "../../rpcgen/tests/accepted/calculator.rs"]
#[rustfmt::skip]
mod calculator;
#[path = "../../rpcgen/tests/accepted/geometry.rs"]
#[rustfmt::skip]
mod geometry;

mod rpc {
    mod failures;
    mod hostile;
    mod kinds;
    mod looking;
    mod support;
    mod unbounded;
}
