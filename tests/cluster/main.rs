//! The whole system as its users have it: the `pagemesh` command, daemons and programs as processes, on one
//! host. Each test has a directory and processes of its own, and leaves neither behind.

mod bed;
mod bystanders;
mod deaths;
mod doctor;
mod ends;
mod first_minute;
mod keeping;
mod outputs;
mod programs;
mod regions;
mod rpc;
mod run_on;
mod start;
mod status;
mod usage;
mod wrong;
