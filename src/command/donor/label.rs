//! Puts together what the label says.

use std::time::Duration;

use jiff::Timestamp;

use super::before::Prepared;
use crate::archive::encode::Finished;
use crate::archive::label::{BackupId, Label, Source, Stored};
use crate::archive::manifest::{FORMAT_VERSION, Manifest};
use crate::archive::seal::Recipients;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::source::settle::Settled;
use crate::store::manifest_name;
use crate::sys;
use crate::wsrep::answer::Position;
use crate::wsrep::request::Request;
use crate::wsrep::server_process::ServerProcess;

/// Galera's name for a cluster that nobody named.
const DEFAULT_CLUSTER: &str = "my_wsrep_cluster";

/// How long the parts of a run took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// When the run began.
    pub(super) started: Timestamp,
    /// From `flush tables` to the server's answer.
    pub(super) flush: Duration,
    /// From the answer to `continue`.
    pub(super) frozen: Duration,
}

/// Who was backed up, and for whom.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    cluster: String,
    pub(super) node: String,
    server_version: Option<String>,
    request: Option<String>,
    domain: Option<u32>,
    source: Source,
    recipients: Recipients,
}

impl Origin {
    /// Finds out what the server did not say on the command line.
    pub(super) fn of(request: &Request, prepared: &Prepared, server: &ServerProcess, cancel: &Cancel) -> Self {
        let Prepared { address, variables, .. } = prepared;
        let told = request.mysqld_version.as_ref().map(|version| version.to_string_lossy().into_owned());
        Self {
            cluster: variables.wsrep_cluster_name.clone().unwrap_or_else(|| DEFAULT_CLUSTER.to_owned()),
            node: variables.wsrep_node_name.clone().unwrap_or_else(sys::host_name),
            server_version: told.or_else(|| server.version(cancel)),
            request: address.request.as_ref().map(ToString::to_string),
            domain: request.gtid_domain,
            source: prepared.plan.source,
            recipients: prepared.recipients.clone(),
        }
    }

    /// The label of a complete archive.
    pub(super) fn label<W>(
        &self,
        id: BackupId,
        position: &Position,
        times: Times,
        settled: &Settled,
        finished: &Finished<W>,
        manifest_stored: &[u8],
    ) -> Label {
        let Manifest { codec, warnings, .. } = &finished.manifest;
        let seal = self.recipients.seal();
        Label {
            format_version: FORMAT_VERSION,
            id,
            gtid: position.gtid(),
            gtid_domain: position.domain().or(self.domain),
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            server_version: self.server_version.clone(),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            binlog: settled.inventory.binlog.clone(),
            started: times.started,
            finished: sys::now(),
            frozen_ms: millis(times.frozen),
            flush_ms: millis(times.flush),
            source: self.source,
            settle_passes: settled.passes,
            files: finished.manifest.plain_files().count() as u64,
            raw_bytes: finished.manifest.raw_bytes(),
            copied_again_bytes: settled.copied_again_bytes,
            codec: *codec,
            recipients: self.recipients.clone(),
            archive: Stored {
                name: codec.archive_name(seal).to_owned(),
                bytes: finished.stored_bytes,
                sha256: finished.sha256,
            },
            manifest: Stored {
                name: manifest_name(seal).to_owned(),
                bytes: manifest_stored.len() as u64,
                sha256: Digest::of(manifest_stored),
            },
            request: self.request.clone(),
            warnings: warnings.len() as u64,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
