use std::process::ExitCode;
pub fn measure(_a: &[&str]) -> ExitCode { ExitCode::FAILURE }
