//! `tests/demo`: one backup and one restore on real servers, told to a stranger.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::lab::backup::Writes;
use crate::lab::cluster::Cluster;
use crate::lab::node::{Node, Options};
use crate::lab::{After, Lab, Seed};

/// Shows the program's main job; with `keep` the three servers go on running.
pub fn show(keep: bool) -> ExitCode {
    let mut lab = match Lab::new(if keep { After::Servers } else { After::Nothing }) {
        Ok(lab) => lab,
        Err(cause) => {
            eprintln!("cannot set up the lab: {cause}");
            return ExitCode::FAILURE;
        }
    };
    // The panic of a failed step has been printed when it gets here.
    if catch_unwind(AssertUnwindSafe(|| steps(&lab, keep))).is_err() {
        lab.leave_nothing();
        println!("\neverything was taken down again");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn steps(lab: &Lab, keep: bool) {
    println!("\n[1] A throw-away Galera cluster in {}", lab.dir.display());
    println!("    Two real MariaDB servers on loopback ports of their own; no other server is touched.");
    println!("    Making some 300 MB of tables, starting node1 and node2 ...");
    let mut cluster = Cluster::start(lab, "demo", Seed::Large);
    println!("    node1 and node2 are Synced.");
    let writes = Writes::start(&cluster.writer);
    println!("    sysbench writes on node1, and goes on doing so until the end.");

    println!("\n[2] A backup, asked for with garbd");
    println!("    $ garbd --group lab --donor node2 --sst backup:");
    let mark = cluster.donor.log_mark();
    let label = cluster.backup();
    println!("    node2 wrote to its error log:");
    cluster.donor.backup_log(mark).lines().for_each(|line| println!("      {line}"));
    println!("    node2 is Synced again.");

    println!("\n[3] What the operator sees");
    show_command(&cluster, &["list"]);
    show_command(&cluster, &["verify", label.id()]);

    println!("\n[4] Restore to a third node");
    let datadir = cluster.dir.join("node3-data");
    let target = datadir.to_str().expect("plain");
    show_command(&cluster, &["restore", label.id(), "--target", target]);
    let mut third = cluster.restored_node(&datadir, &label, Options::default());
    println!("    InnoDB itself says that these files are at {}: the label's position.", label.gtid());

    println!("\n[5] node3 starts on the restored files and joins");
    cluster.join_by_ist(&mut third, &label);
    let log = third.log(0);
    let told = |line: &&str| line.contains("Receiving IST: ") || line.contains("IST received: ");
    log.lines().filter(told).for_each(|line| println!("      {line}"));
    println!("    It got only the write sets that it lacked (IST). No full state transfer (SST) ran.");
    writes.stop();
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor, &third]);
    println!("    The writes are stopped; CHECKSUM TABLE of every table is the same on all three nodes.");

    println!("\n[6] Where everything lies");
    println!("    the backup       {}", label.dir.display());
    println!("    node2's log      {}", cluster.donor.error_log().display());
    println!("    node3's datadir  {}", datadir.display());
    if keep {
        let Cluster { writer, donor, .. } = &mut cluster;
        let nodes = [writer, donor, &mut third];
        leave_running(lab, nodes);
    } else {
        println!("    All of it is removed now; tests/demo --keep leaves it running.");
    }
}

/// Shows a command of the operator, and what it prints.
fn show_command(cluster: &Cluster<'_>, arguments: &[&str]) {
    println!("    $ wsrep_sst_backup --repository {} {}", cluster.repository.display(), arguments.join(" "));
    cluster.operate(arguments).lines().for_each(|line| println!("      {line}"));
}

fn leave_running(lab: &Lab, nodes: [&mut Node; 3]) {
    println!("\n[7] It goes on running");
    let mut pids = Vec::new();
    for node in nodes {
        println!("    {}: mariadb --user=root --socket={}", node.name, node.socket().display());
        pids.push(node.pid().to_string());
        node.leave_running();
    }
    println!("    the program: {}", lab.program.display());
    println!("    To end it: kill -9 {} && rm -r {}", pids.join(" "), lab.dir.display());
}
