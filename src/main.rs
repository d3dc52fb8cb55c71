//! The program: run the library, turn its result into an exit code.

fn main() -> std::process::ExitCode {
    rmogstored::run(std::env::args_os())
}
