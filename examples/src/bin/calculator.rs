//! A calculator at rank 0, called by all ranks: one method of each kind that calls between nodes can have.
//! The interface is in `examples/idl/calculator.idl`; its stubs are made when this program is built.

use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use clap::Parser;
use examples::{Failure, Outcome, Table, arguments, check, timed};
use pagemesh::Globals;
use pagemesh::prelude::*;
use pagemesh::rpc::{self, Context, Global, Policy, Sink};

pagemesh::include_idl!("calculator" as calculator);
use calculator::{
    Calculator, CalculatorCalls, CalculatorClient, CalculatorDivideError, CalculatorServer, DivideByZero,
};

/// Call a calculator on another node
#[derive(Parser)]
#[command(name = "calculator", version)]
struct Arguments {
    /// Calls of each rank that are timed
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
}

/// The server. It runs several calls at a time, so it is shared like any value between threads.
struct Machine {
    globals: Globals,
    notes: AtomicI32,
}

impl Calculator for Machine {
    fn func1(&self, _: &Context<'_>, arg1: i32) -> rpc::Result<i32> {
        Ok(arg1.wrapping_mul(2))
    }

    fn func2(&self, _: &Context<'_>, arg1: i32, arg2: i32) -> rpc::Result<i32> {
        Ok(arg1.wrapping_add(arg2))
    }

    fn divide(&self, _: &Context<'_>, a: i32, b: i32) -> rpc::Result<i32, CalculatorDivideError> {
        match b {
            0 => Err(DivideByZero { dividend: a }.into()),
            _ => Ok(a.wrapping_div(b)),
        }
    }

    fn mean(&self, _: &Context<'_>, samples: Vec<f64>, _: Option<String>) -> rpc::Result<f64> {
        Ok(samples.iter().sum::<f64>() / samples.len() as f64)
    }

    fn grind(&self, context: &Context<'_>, steps: i32) -> rpc::Result<i32> {
        for step in 1..=steps {
            // Fails when the caller has gone: then nobody needs the rest.
            context.progress(step as u64, steps as u64)?;
        }
        Ok(steps)
    }

    fn count(&self, _: &Context<'_>, upto: i32, sink: &mut Sink<'_, i32>) -> rpc::Result<()> {
        // Waits while the client has no room.
        (0..upto).try_for_each(|number| sink.send(&number))
    }

    fn note(&self, _: &Context<'_>, _: &str) {
        self.notes.fetch_add(1, Ordering::Relaxed);
    }

    fn notes(&self, _: &Context<'_>) -> rpc::Result<i32> {
        Ok(self.notes.load(Ordering::Relaxed))
    }

    fn sum(&self, _: &Context<'_>, data: Global<f64>) -> rpc::Result<f64> {
        let data = self.globals.open(data).map_err(rpc::Error::remote)?;
        Ok((0..data.len()).map(|index| data.get(index)).sum())
    }
}

fn main() -> ExitCode {
    examples::main("calculator", run)
}

fn run() -> Outcome {
    let arguments: Arguments = arguments()?;
    let dsm = Dsm::builder().from_env()?.join()?;
    if dsm.is_root() {
        let machine = Machine { globals: dsm.globals(), notes: AtomicI32::new(0) };
        dsm.serve(CalculatorServer(machine), 1024)?;
    }
    dsm.wait_for_server("Calculator", Duration::from_secs(20))?;
    let channel = dsm.channel(Policy::RoundRobin);

    let calls = arguments.calls;
    let client = CalculatorClient::new(channel.clone());
    every_kind(&dsm, &client)?;
    let (result, one_by_one) = timed(|| (0..calls).try_for_each(|_| client.func2(1, 2).map(drop)));
    result.map_err(failed)?;
    let (result, together) = timed(|| many_at_once(&dsm, &CalculatorCalls::new(channel), calls));
    result?;

    dsm.barrier()?;
    let notes = client.notes().map_err(failed)?;
    check(notes == dsm.ranks() as i32, || format!("{notes} notes of {} ranks", dsm.ranks()))?;
    if dsm.is_root() {
        let each = |time: Duration| format!("{:.1} us", time.as_secs_f64() * 1e6 / f64::from(calls));
        let mut table = Table::default();
        table.row("one call after the other, each", each(one_by_one));
        table.row("64 in flight, each", each(together));
        table.row("verified", "yes");
        table.print(&format!("A calculator at rank 0, called by {} ranks", dsm.ranks()))?;
    }
    dsm.barrier()?;
    Ok(dsm.leave()?)
}

/// A call that looks like a local one, whatever its kind.
fn every_kind(dsm: &Dsm, client: &CalculatorClient) -> Outcome {
    check(client.func1(21).map_err(failed)? == 42, || "func1(21)".into())?;
    check(client.func2(40, 2).map_err(failed)? == 42, || "func2(40, 2)".into())?;
    match client.divide(1, 0) {
        Err(CalculatorDivideError::DivideByZero(thrown)) if thrown.dividend == 1 => {}
        other => return check(false, || format!("divide(1, 0) is {other:?}")),
    }
    let mean = client.mean(&[1.0, 2.0, 6.0], &Some("three".into())).map_err(failed)?;
    check(mean == 3.0, || format!("the mean is {mean}"))?;
    check(client.grind(100).map_err(failed)? == 100, || "grind(100)".into())?;
    let sum: i32 = client.count(100).sum::<rpc::Result<i32>>().map_err(failed)?;
    check(sum == 4950, || format!("the numbers below 100 are {sum}"))?;
    client.note("was here").map_err(failed)?;

    let data = dsm.alloc::<f64>(&format!("calculator.{}", dsm.rank()), 10_000)?;
    for index in 0..data.len() {
        data.set(index, index as f64);
    }
    let sum = client.sum(data.global()).map_err(failed)?;
    check(sum == 49_995_000.0, || format!("the sum is {sum}"))
}

/// Calls that are started together and then waited for.
fn many_at_once(dsm: &Dsm, calls: &CalculatorCalls, count: u32) -> Outcome {
    let batch = dsm.calls().batch();
    let mut open = std::collections::VecDeque::new();
    for number in 0..count as i32 {
        if open.len() == 64 {
            let oldest: rpc::Call<i32> = open.pop_front().expect("64 of them");
            oldest.wait().map_err(failed)?;
        }
        open.push_back(calls.func1(number));
    }
    for call in open {
        call.wait().map_err(failed)?;
    }
    drop(batch);
    Ok(())
}

fn failed(error: rpc::Error) -> Failure {
    Failure::Dsm(Error::Refused(error.to_string()))
}
