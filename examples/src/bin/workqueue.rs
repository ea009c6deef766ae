//! A queue of tasks that take very different times: each rank takes the next one when it has finished its last.
//! The queue is one number in shared memory, the first task that no rank has taken.

use std::process::ExitCode;

use examples::{Outcome, Table, arguments, check, timed};
use pagemesh::prelude::*;

/// Share out tasks of different length as ranks become free
#[derive(clap::Parser)]
struct Arguments {
    /// Tasks
    #[arg(long, default_value_t = 2000)]
    tasks: usize,
}

fn main() -> ExitCode {
    examples::main("workqueue", work_queue)
}

fn work_queue() -> Outcome {
    let tasks = arguments::<Arguments>()?.tasks;
    let dsm = Dsm::builder().from_env()?.join()?;
    let next = dsm.alloc::<u64>("workqueue.next", 1)?;
    let results = dsm.alloc::<u64>(&format!("workqueue.{tasks}"), tasks)?;
    next.store(0, 0); // it may be left from a run that was killed
    dsm.barrier()?;

    let (mine, time) = timed(|| {
        let take = || Some(next.fetch_add(0, 1) as usize).filter(|&task| task < tasks);
        std::iter::from_fn(take).map(|task| results.set(task, work(task))).count() as u64
    });
    // Every result is there when all ranks have come here.
    let [least, most] = dsm.all_reduce([mine, mine], |a, b| [a[0].min(b[0]), a[1].max(b[1])])?;

    if dsm.is_root() {
        let (expected, alone_time) = timed(|| (0..tasks).map(work).collect::<Vec<_>>());
        check(results.to_vec() == expected, || "a task was lost or done wrong".into())?;
        let mut table = Table::default();
        table.row("tasks of the rank with the fewest", least);
        table.row("tasks of the rank with the most", most);
        table.time("time", time);
        table.time("one process alone", alone_time);
        table.row("verified", "yes");
        table.print(&format!("{tasks} tasks, {} ranks", dsm.ranks()))?;
        // With daemons, regions stay until somebody removes them.
        dsm.remove("workqueue.next")?;
        dsm.remove(&format!("workqueue.{tasks}"))?;
    }
    Ok(dsm.leave()?)
}

/// How many steps the numbers of a task take to 1, halved if even, and tripled and one added if odd.
fn work(task: usize) -> u64 {
    let step = |n: &u64| (*n > 1).then(|| if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 });
    let numbers = 1..1 + (task as u64 * 7919) % 2000;
    numbers.map(|number| std::iter::successors(Some(number), step).count() as u64).sum()
}
