//! The `pgweir` program.

use std::process::ExitCode;

use clap::Parser;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    use_small_pages();
    pgweir::cli::Arguments::parse().run()
}

/// No pages of 2 MiB for the heap, before it has its first: the allocator asks for them, and what an idle client costs is less than a thousandth of one.
fn use_small_pages() {
    // Where that is not allowed the memory is larger, and nothing else.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}
