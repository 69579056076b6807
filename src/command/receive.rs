//! `receive`: waits for backups that donors stream here, and puts them into a local repository.
//!
//! Who may store something, and whether it may travel in the clear, is decided before anything listens: an open door has to be
//! asked for by name.

use serde::Serialize;

use super::human;
use super::output::Output;
use crate::archive::label::BackupId;
use crate::cancel::Cancel;
use crate::cli::ReceiveArgs;
use crate::error::{Class, Error, Result};
use crate::receiver::server::{Limits, Published, Server, Settings, TlsFiles};
use crate::receiver::token::Token;
use crate::store::{LocalRepository, Location};

/// One document for each thing that happens, where lines are not wanted.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'a> {
    Listening { url: &'a str },
    Published { id: &'a BackupId, archive_bytes: u64, from: String },
}

/// Listens, and serves until the program is told to end.
pub fn run(args: &ReceiveArgs, location: &Location, cancel: &Cancel, output: &mut Output) -> Result<()> {
    let settings = settings(args)?;
    let Location::Directory(directory) = location else {
        return Err(Error::new(
            Class::Config,
            format!("what is received goes into a directory, not to \"{location}\""),
        )
        .hint("give --repository DIR"));
    };
    let server = Server::bind(settings, LocalRepository::open(directory)?)?;
    let url = server.url();
    output.line(format!("listening on {url}"))?;
    output.json(&Event::Listening { url: &url })?;
    server.run(cancel, |published| tell(published, output))
}

fn tell(published: &Published, output: &mut Output) -> Result<()> {
    let Published { id, bytes, peer } = published;
    output.line(format!("backup {id} from {peer}: {} stored", human::size(*bytes)))?;
    output.json(&Event::Published { id, archive_bytes: *bytes, from: peer.to_string() })
}

fn settings(args: &ReceiveArgs) -> Result<Settings> {
    let tls = args.tls_cert.clone().zip(args.tls_key.clone());
    let tls = tls.map(|(certificate, key)| TlsFiles { certificate, key, client_ca: args.client_ca.clone() });
    let token = args.token_file.as_deref().map(Token::read).transpose()?;
    if token.is_none() && args.client_ca.is_none() && !args.no_token {
        return Err(Error::new(Class::Config, "everybody who reaches the port could store backups here")
            .hint("give --token-file, or --client-ca; --no-token if you want that"));
    }
    if tls.is_none() && !args.listen.ip().is_loopback() && !args.no_tls {
        return Err(Error::new(Class::Config, "backups would come from other hosts in the clear")
            .hint("give --tls-cert and --tls-key; --no-tls if you want that"));
    }
    let limits = Limits {
        max_size: args.max_size.unwrap_or(u64::MAX),
        max_uploads: args.max_uploads,
        stall: args.stall_timeout,
        request: args.request_timeout,
    };
    Ok(Settings { listen: args.listen, tls, token, limits, once: args.once })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn of(line: &str) -> Result<Settings> {
        let line = format!("w receive {line}");
        let Command::Receive(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else { panic!() };
        settings(&args)
    }

    #[test]
    fn an_open_door_has_to_be_asked_for() {
        for line in
            ["--listen 127.0.0.1:0", "--listen 10.0.0.1:0 --tls-cert c --tls-key k", "--listen 10.0.0.1:0 --no-tls"]
        {
            let error = of(line).unwrap_err();
            assert!(error.advice().unwrap().contains("--no-token"), "{line}");
        }
        assert!(of("--listen 127.0.0.1:0 --no-token").is_ok());
        assert!(of("--listen 10.0.0.1:0 --tls-cert c --tls-key k --client-ca a").is_ok());
    }

    #[test]
    fn clear_text_from_other_hosts_has_to_be_asked_for() {
        for line in ["--listen 0.0.0.0:0 --no-token", "--listen [::]:0 --no-token", "--listen 10.0.0.1:0 --no-token"] {
            assert!(of(line).unwrap_err().advice().unwrap().contains("--no-tls"), "{line}");
        }
        assert!(of("--listen 0.0.0.0:0 --no-token --no-tls").is_ok());
        assert!(of("--listen [::1]:0 --no-token").is_ok());
    }
}
