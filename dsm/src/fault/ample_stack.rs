//! Runs fault resolution on a stack of its own when the signal arrived on an alternate stack.
//!
//! SIGSEGV must be handled on the alternate stack, or a stack overflow could no longer be reported;
//! but the alternate stack that Rust gives its threads is a few KiB, too small for a protocol. Giving
//! every thread a larger one works only for threads that the library knows. So the handler hops: any
//! thread, of any language, may fault. Not a coroutine: the call returns before the handler does.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use crossbeam::queue::ArrayQueue;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use crate::config::fault::{HANDLER_STACK_LEN, HANDLER_STACKS_MAX};
use crate::page::PAGE_SIZE;

/// Stacks that are kept for the next fault, so that none is mapped once the program is warm.
pub(super) struct StackPool {
    free: ArrayQueue<Stack>,
}

impl StackPool {
    pub(super) fn new() -> Self {
        StackPool { free: ArrayQueue::new(HANDLER_STACKS_MAX) }
    }

    /// Calls `work`: on an ample stack if this thread is on its alternate one now, which `alternate`
    /// (of the signal's context) describes, and in place otherwise. `work` must not unwind.
    pub(super) fn run(&self, alternate: &libc::stack_t, mut work: impl FnMut()) {
        if !is_on(alternate) {
            return work();
        }
        let stack = self.free.pop().unwrap_or_else(Stack::map);
        stack.call(&mut work);
        // A full pool lets the stack go.
        let _ = self.free.push(stack);
    }
}

/// Whether the caller's frame lies on the alternate stack.
fn is_on(alternate: &libc::stack_t) -> bool {
    let marker = 0u8;
    let here = (&raw const marker).addr();
    let start = alternate.ss_sp.addr();
    alternate.ss_flags & libc::SS_DISABLE == 0 && (start..start + alternate.ss_size).contains(&here)
}

/// A mapped stack; its lowest page is a guard.
struct Stack {
    lowest: NonNull<c_void>,
}

// SAFETY: the value owns its mapping, which no thread's identity is tied to.
unsafe impl Send for Stack {}

impl Stack {
    fn map() -> Stack {
        let size = NonZeroUsize::new(HANDLER_STACK_LEN).expect("a constant");
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_STACK;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let lowest =
            unsafe { mmap_anonymous(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) };
        let lowest = lowest.expect("no memory for the stack of a page fault");
        // SAFETY: the page is the fresh mapping's lowest, which nothing uses.
        unsafe { mprotect(lowest, PAGE_SIZE, ProtFlags::PROT_NONE) }.expect("a page of the mapping");
        Stack { lowest }
    }

    /// Calls `work` on this stack.
    fn call<F: FnMut()>(&self, work: &mut F) {
        extern "C" fn enter<F: FnMut()>(work: *mut c_void) {
            // SAFETY: `call` passes the closure that it borrows exclusively until we return.
            let work = unsafe { &mut *work.cast::<F>() };
            work();
        }
        let top = self.lowest.as_ptr().wrapping_byte_add(HANDLER_STACK_LEN);
        // SAFETY: `top` is the aligned upper end of a stack that only this call uses, and `enter` is
        // given the closure's own type. `extern "C"` aborts rather than unwind through the assembly.
        unsafe { call_on(top, (&raw mut *work).cast(), enter::<F>) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no call runs on it.
        let result = unsafe { munmap(self.lowest, HANDLER_STACK_LEN) };
        debug_assert_eq!(result, Ok(()));
    }
}

/// `function(argument)` with the stack pointer at `top`, which is a multiple of 16.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn call_on(top: *mut c_void, argument: *mut c_void, function: extern "C" fn(*mut c_void)) {
    std::arch::naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "mov rsp, rdi",
        "mov rdi, rsi",
        "call rdx",
        "mov rsp, rbp",
        "pop rbp",
        "ret",
    )
}

/// `function(argument)` with the stack pointer at `top`, which is a multiple of 16.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C" fn call_on(top: *mut c_void, argument: *mut c_void, function: extern "C" fn(*mut c_void)) {
    std::arch::naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "mov x29, sp",
        "mov sp, x0",
        "mov x0, x1",
        "blr x2",
        "mov sp, x29",
        "ldp x29, x30, [sp], #16",
        "ret",
    )
}
