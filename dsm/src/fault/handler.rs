//! The signal handlers: from a SIGBUS or SIGSEGV to a [`PageFault`], or to whoever handled the signal
//! before us.
//!
//! The handler runs synchronously at a load or store of the application, so it is a call rather than
//! an interruption: it may lock and allocate. What it must not do is listed in `docs/design.md`; the
//! masks and flags below are the rules that the kernel can keep for us.

use std::cell::Cell;
use std::ffi::c_void;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

use super::core_section::{FaultSection, asynchronous};
use super::{Backend, PageFault, Shared, table};
use crate::error::{Error, Result};
use crate::fork;
use crate::page::{Access, PageId};

const SEGV_ACCERR: i32 = 2;
const BUS_ADRERR: i32 = 2;
const BUS_MCEERR_AR: i32 = 4;

/// The actions for SIGBUS and SIGSEGV that ours replaced; written once.
static PREVIOUS: OnceLock<(SigAction, SigAction)> = OnceLock::new();

/// Installs the handlers, once for the process.
pub(super) fn install() -> Result<()> {
    static INSTALLED: OnceLock<std::result::Result<(), Errno>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            let previous = (current(Signal::SIGBUS)?, current(Signal::SIGSEGV)?);
            // Remember before installing: the first fault of another thread may follow at once.
            PREVIOUS.set(previous).expect("set only here");
            // All else is blocked while a fault is resolved: a handler could touch shared memory.
            // SA_NODEFER with a mask that lets these two through does not nest faults (resolution
            // touches no region); it makes a bug there end with a message, not with a silent kill.
            let flags = SaFlags::SA_SIGINFO | SaFlags::SA_NODEFER;
            // SIGBUS on the thread's own stack: resolution needs more than an alternate one has.
            set(Signal::SIGBUS, flags, asynchronous())?;
            // SIGSEGV may be a stack overflow, which leaves no room but on the alternate stack.
            set(Signal::SIGSEGV, flags | SaFlags::SA_ONSTACK, asynchronous())
        })
        .map_err(|errno| Error::os("installing the page fault handlers", errno))
}

fn current(signal: Signal) -> std::result::Result<SigAction, Errno> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    let (number, none) = (signal as i32, std::ptr::null());
    // SAFETY: without a new action the call only writes the old one.
    Errno::result(unsafe { libc::sigaction(number, none, action.as_mut_ptr()) })?;
    // SAFETY: the call above succeeded and so has written the value.
    let action = unsafe { action.assume_init() };
    Ok(from_libc(&action))
}

/// nix makes a `SigAction` only from its parts.
fn from_libc(action: &libc::sigaction) -> SigAction {
    let flags = SaFlags::from_bits_truncate(action.sa_flags);
    let handler = match action.sa_sigaction {
        libc::SIG_DFL => SigHandler::SigDfl,
        libc::SIG_IGN => SigHandler::SigIgn,
        address if flags.contains(SaFlags::SA_SIGINFO) => {
            // SAFETY: the kernel says that this address is a three-argument handler.
            SigHandler::SigAction(unsafe { std::mem::transmute::<usize, SigInfoHandler>(address) })
        }
        address => {
            // SAFETY: the kernel says that this address is a one-argument handler.
            SigHandler::Handler(unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(address) })
        }
    };
    // SAFETY: a mask that the kernel gave us is a valid one.
    let mask = unsafe { SigSet::from_sigset_t_unchecked(action.sa_mask) };
    SigAction::new(handler, flags, mask)
}

type SigInfoHandler = extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void);

fn set(signal: Signal, flags: SaFlags, mask: SigSet) -> std::result::Result<(), Errno> {
    let action = SigAction::new(SigHandler::SigAction(on_signal), flags, mask);
    // SAFETY: `on_signal` keeps the rules of this module and stays mapped for the process's life.
    unsafe { sigaction(signal, &action) }.map(drop)
}

extern "C" fn on_signal(number: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = Errno::last_raw();
    if on_fault(number, info, context).is_continue() {
        pass_on(number, info, context);
    }
    Errno::set_raw(errno);
}

/// Resolves the fault if it is one of ours; `Continue` if somebody else should look at the signal.
fn on_fault(number: i32, info: *mut libc::siginfo_t, context: *mut c_void) -> ControlFlow<()> {
    // SAFETY: the kernel passes a handler with SA_SIGINFO a valid description of the signal.
    let info = unsafe { &*info };
    if info.si_code <= 0 {
        return ControlFlow::Continue(()); // sent by kill or sigqueue: it has no address
    }
    // SAFETY: signals of the kernel with these numbers carry an address.
    let address = unsafe { info.si_addr() }.addr();
    let Some(arena) = table::find(address) else {
        return ControlFlow::Continue(());
    };
    if fork::is_child() {
        explain(&arena, address, info.si_code);
        return ControlFlow::Continue(());
    }
    let page = arena.page_of(address);
    let protected = number == libc::SIGSEGV && info.si_code == SEGV_ACCERR;
    let revoked = protected && arena.revoked.load(Ordering::SeqCst);
    let expected = match arena.backend {
        Backend::Signal => revoked || number == libc::SIGBUS && info.si_code == BUS_ADRERR,
        Backend::Mprotect => protected,
        Backend::Thread => revoked,
        Backend::None => false,
    };
    // SAFETY: the kernel passes the interrupted thread's context.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let instruction = instruction(context);
    // No access makes shared memory executable.
    let executes = arena.addresses.contains(&(instruction as usize));
    let is_known = arena.access.in_region(page);
    if !is_known && !executes && find_region(&arena, page, &context.uc_stack) {
        return ControlFlow::Break(());
    }
    if is_known && !executes && number == libc::SIGSEGV && !expected && first_at(address) {
        // Another thread has just found the region.
        return ControlFlow::Break(());
    }
    if !expected || executes || !is_known {
        explain(&arena, address, info.si_code);
        return ControlFlow::Continue(());
    }
    let fault = PageFault { page, access: wanted(context), instruction, thread: current_thread() };
    resolve(&arena, fault, &context.uc_stack);
    ControlFlow::Break(())
}

/// Asks the sink for a region that this node has not heard of yet: another node may have stored a pointer into
/// it. The thread faults again afterwards.
fn find_region(arena: &Shared, page: PageId, alternate: &libc::stack_t) -> bool {
    // A thread of this library that goes astray asks nobody.
    let Ok(section) = FaultSection::enter() else { return false };
    let mut is_found = false;
    arena.stacks.run(alternate, || {
        let asks = || arena.sink().is_some_and(|sink| sink.find_region(page));
        is_found = catch_unwind(AssertUnwindSafe(asks)).unwrap_or(false);
    });
    drop(section);
    is_found
}

/// Whether this thread's last unexpected signal had another address. An instruction is tried again once.
fn first_at(address: usize) -> bool {
    thread_local!(static LAST: Cell<usize> = const { Cell::new(0) });
    LAST.replace(address) != address
}

/// Calls the sink. A panic in it ends the process: nothing may unwind out of a signal handler.
fn resolve(arena: &Shared, fault: PageFault, alternate: &libc::stack_t) {
    let section = match FaultSection::enter() {
        Ok(section) => section,
        Err(why) => die(format_args!("a thread touched shared memory ({:?}) {why}", fault.page)),
    };
    arena.counts.count(&fault);
    arena.stacks.run(alternate, || {
        let Some(sink) = arena.sink() else {
            die(format_args!("{:?} was touched after the node had left", fault.page));
        };
        if catch_unwind(AssertUnwindSafe(|| sink.resolve(fault))).is_err() {
            die(format_args!("panic while a page fault on {:?} was being resolved", fault.page));
        }
    });
    drop(section);
}

/// What the previous handler would have done with the signal.
fn pass_on(number: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    let signal = Signal::try_from(number).expect("installed for known signals only");
    let (bus, segv) = PREVIOUS.get().expect("set before the handlers were installed");
    let previous = if signal == Signal::SIGBUS { bus } else { segv };
    // SAFETY: the kernel passes a handler with SA_SIGINFO a valid description of the signal.
    let by_kernel = unsafe { &*info }.si_code > 0;
    match previous.handler() {
        SigHandler::Handler(handler) => handler(number),
        SigHandler::SigAction(handler) => handler(number, info, context),
        SigHandler::SigIgn if !by_kernel => return,
        SigHandler::SigIgn | SigHandler::SigDfl => {
            let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
            // SAFETY: the default action runs no code of ours.
            let _ = unsafe { sigaction(signal, &action) };
        }
    }
    // With the default action set, by us or by the previous handler (Rust's own does so), returning
    // repeats the instruction, which ends the process with the right signal and core dump. A signal
    // that was sent has no instruction to repeat.
    let default = current(signal).is_ok_and(|action| matches!(action.handler(), SigHandler::SigDfl));
    if default && !by_kernel {
        let _ = raise(signal);
    }
}

/// One line on an access to the arena that is no page fault of a region.
fn explain(arena: &Shared, address: usize, code: i32) {
    let mut line = Line::new();
    let _ = if std::process::id() != arena.process {
        writeln!(
            line,
            "pagemesh: process {} touched shared memory at {address:#x}, but was forked from process {}: \
             shared memory does not survive fork; start the program anew (exec) instead",
            std::process::id(),
            arena.process
        )
    } else if !arena.access.in_region(arena.page_of(address)) {
        writeln!(line, "pagemesh: {address:#x} lies in the arena but in no region: a stray or stale pointer")
    } else if code == BUS_MCEERR_AR {
        writeln!(line, "pagemesh: the machine's memory behind {address:#x} is broken")
    } else {
        writeln!(line, "pagemesh: {address:#x} is shared memory, which cannot be executed: a stray jump")
    };
    line.print();
}

/// Ends the process with a line on standard error, from any context.
pub(super) fn die(why: std::fmt::Arguments<'_>) -> ! {
    let mut line = Line::new();
    let _ = writeln!(line, "pagemesh: {why}");
    line.print();
    std::process::abort()
}

/// A line of text without allocation or locks; what does not fit is cut.
struct Line {
    bytes: [u8; 400],
    len: usize,
}

impl Line {
    fn new() -> Line {
        Line { bytes: [0; 400], len: 0 }
    }

    fn print(&self) {
        let _ = nix::unistd::write(std::io::stderr(), &self.bytes[..self.len]);
    }
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let fits = text.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        Ok(())
    }
}

/// This thread's id, as the kernel knows it.
fn current_thread() -> u32 {
    thread_local!(static ID: u32 = nix::unistd::gettid().as_raw() as u32);
    ID.with(|id| *id)
}

/// What the interrupted instruction wanted: bit 1 of the page fault's error code is set by stores,
/// those of read-modify-write instructions among them.
#[cfg(target_arch = "x86_64")]
fn wanted(context: &libc::ucontext_t) -> Access {
    let error = context.uc_mcontext.gregs[libc::REG_ERR as usize];
    if error & 0b10 == 0 { Access::Read } else { Access::Write }
}

#[cfg(target_arch = "x86_64")]
fn instruction(context: &libc::ucontext_t) -> u64 {
    context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64
}

/// What the interrupted instruction wanted: bit WnR of the syndrome register, which the kernel puts
/// into a record of the context's reserved area (arch/arm64/include/uapi/asm/sigcontext.h).
#[cfg(target_arch = "aarch64")]
fn wanted(context: &libc::ucontext_t) -> Access {
    const ESR_MAGIC: u32 = 0x4553_5201;
    const WNR: u64 = 1 << 6;
    /// `__reserved` follows `pstate`, aligned to 16 bytes.
    const RECORDS: usize =
        (std::mem::offset_of!(libc::mcontext_t, pstate) + size_of::<u64>()).next_multiple_of(16);
    const RECORDS_LEN: usize = 4096;
    const _: () = assert!(RECORDS + RECORDS_LEN <= size_of::<libc::mcontext_t>());
    let machine = (&raw const context.uc_mcontext).cast::<u8>();
    let records = machine.wrapping_add(RECORDS);
    // SAFETY: the area is inside the context, by the assertion above, and plain bytes.
    let records = unsafe { std::slice::from_raw_parts(records, RECORDS_LEN) };
    let word = |at: usize| u32::from_ne_bytes(records[at..at + 4].try_into().expect("4 bytes"));
    let mut at = 0;
    while at + 16 <= RECORDS_LEN && word(at) != 0 && word(at + 4) >= 8 {
        if word(at) == ESR_MAGIC {
            let syndrome = u64::from_ne_bytes(records[at + 8..at + 16].try_into().expect("8 bytes"));
            return if syndrome & WNR == 0 { Access::Read } else { Access::Write };
        }
        at += word(at + 4) as usize;
    }
    Access::Write // without a record ask for what every instruction can live with
}

#[cfg(target_arch = "aarch64")]
fn instruction(context: &libc::ucontext_t) -> u64 {
    context.uc_mcontext.pc
}
