//! The command line: what can be typed, and what it means. Does nothing.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::documents::cis::Benchmark;
use crate::documents::names::{ClusterName, SnapshotName};
use crate::operations::cis::kube_bench::DEFAULT_IMAGE;

/// Declarative provisioner of kind clusters: one command from a YAML profile to a running, hardened, proven cluster.
#[derive(Debug, Parser)]
#[command(name = "kprov", version, about, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
}

impl Cli {
    /// What was typed, understood; ends the program with a word of help where it cannot be.
    #[must_use]
    pub fn typed() -> Self {
        Self::parse_from(undashed(std::env::args_os().collect()))
    }
}

/// `apiserver set|unset` takes the API server's flags as people copy them, with dashes: those that are no option of kprov's
/// lose them, so that options may stand anywhere.
fn undashed(mut words: Vec<OsString>) -> Vec<OsString> {
    let begin = words.windows(2).position(|pair| pair[0] == "apiserver" && (pair[1] == "set" || pair[1] == "unset"));
    let Some(begin) = begin else { return words };
    let valued = words[begin + 1] == "set";
    let command = Cli::command();
    let own = |name: &str| name == "help" || command.get_arguments().any(|option| option.get_long() == Some(name));
    for word in words[begin + 2..].iter_mut().take_while(|word| **word != "--") {
        let Some(flag) = word.to_str().and_then(|word| word.strip_prefix("--")) else { continue };
        let name = flag.split_once('=').map_or(flag, |(name, _)| name);
        if !own(name) && flag.contains('=') == valued {
            *word = flag.into();
        }
    }
    words
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// How results and progress are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub output: Output,
    /// Show nothing of what is under way; errors are shown all the same
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// The kubeconfig file to change, instead of $KUBECONFIG or ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A folder of templates that go before the built-in ones of the same name
    #[arg(long, global = true, value_name = "DIR", env = "KPROV_TEMPLATES")]
    pub templates: Option<PathBuf>,
}

/// How results and progress are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs: the result on standard output, events on standard error
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a cluster from a profile, and prove that it is what was asked for
    Up(Up),
    /// Remove a cluster, leaving nothing behind
    Down {
        /// The cluster; if it is left out, and there is but one, that one, after a question
        cluster: Option<ClusterName>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        /// Forget a cluster whose engine is no more: its record and its keys
        #[arg(long, requires = "cluster", conflicts_with = "all")]
        forget: bool,
        /// Remove every cluster that kprov made, and what killed commands have left
        #[arg(long, conflicts_with = "cluster")]
        all: bool,
    },
    /// List clusters
    Ls,
    /// Show what a cluster is and how it is doing
    Status {
        /// The cluster; may be left out if there is but one
        cluster: Option<ClusterName>,
    },
    /// Make a cluster anew, as it was on its first day: same profile, name, port and keys
    Reset {
        /// The cluster; may be left out if there is but one
        cluster: Option<ClusterName>,
        /// Leave everything as it is when something fails
        #[arg(long)]
        retain: bool,
        /// Show when each step began and how long it took
        #[arg(long)]
        timings: bool,
    },
    /// Put a cluster aside: all of it stays, and nothing of it runs
    Stop {
        /// The cluster; may be left out if there is but one
        cluster: Option<ClusterName>,
    },
    /// Go on with a cluster that was stopped, by kprov or by docker; done when all of it is Ready again
    Start {
        /// The cluster; may be left out if there is but one
        cluster: Option<ClusterName>,
        /// Make its certificates anew even if they do not end within 30 days
        #[arg(long)]
        renew: bool,
    },
    /// Unpack the images within a node image once for all: nodes that are made of it then need not, each by itself
    ///
    /// What comes of it is another image on the engine, which takes as much room as all of them unpacked. Clusters that are
    /// made or reset from then on use it by themselves. `kprov down --all` removes it, too.
    Warm {
        /// The node image
        #[arg(long, value_name = "IMAGE", env = "KPROV_IMAGE", default_value = crate::documents::profile::DEFAULT_IMAGE)]
        image: String,
        /// Remove what was unpacked, of all images, but for what nodes are still made of
        #[arg(long, conflicts_with = "image")]
        remove: bool,
    },
    /// Bring images into nodes, to all of them at once, and only what each of them lacks
    Load {
        /// What to bring.
        #[command(subcommand)]
        command: LoadCommand,
    },
    /// Keep states of clusters, and go back to them
    Snapshot {
        /// What to do.
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Gather evidence that a cluster is what it was meant to be; exits 0 only if all of it holds
    Verify {
        /// The cluster; may be left out if there is but one
        cluster: Option<ClusterName>,
    },
    /// Hold the CIS Kubernetes Benchmark against a cluster, whoever made it
    ///
    /// Exits 0 if nothing was found that `--fail-on` names, 3 if something was, 4 if kube-bench differs and nobody knows
    /// why, 1 if the cluster could not be looked at.
    Cis(Cis),
    /// Break controls of the benchmark on purpose, for a class to find; `kprov reset` ends the lesson
    Break(Break),
    /// Write what is known of clusters, evidence and benchmark, into one page, or into a file for programs
    Report(Report),
    /// Wait until every node and every system pod is Ready, whoever made the cluster
    Wait {
        /// The cluster; may be left out if there is but one
        cluster: Option<ClusterName>,
        /// Wait for the nodes only
        #[arg(long)]
        nodes: bool,
        /// For how many seconds
        #[arg(long, default_value_t = 300, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Look at what is really stored
    Etcd {
        /// What to look at.
        #[command(subcommand)]
        command: EtcdCommand,
        /// The cluster; may be left out if there is but one
        #[arg(long, global = true, value_name = "CLUSTER")]
        cluster: Option<ClusterName>,
    },
    /// Change the API server of a cluster that runs, and take the change back if it does not come up with it
    #[command(name = "apiserver")]
    ApiServer {
        /// What to change.
        #[command(subcommand)]
        command: ApiServerCommand,
    },
    /// Encryption at rest of a cluster that runs: how things are stored, and changing it without losing a byte
    Encryption {
        /// What to do.
        #[command(subcommand)]
        command: EncryptionCommand,
    },
    #[cfg(target_os = "linux")]
    /// A KMS plugin: wraps an API server's data keys by a key that is kept elsewhere
    Kms {
        /// What to do.
        #[command(subcommand)]
        command: KmsCommand,
    },
    /// Render a profile's documents, without touching Docker
    Render(Render),
    /// List profiles, or show one with all that it extends
    Profiles {
        /// A profile's name, or a file
        name: Option<String>,
    },
    /// List a cluster's containers: its nodes, and the load balancer if it has one
    Nodes {
        /// The cluster; may be left out if there is but one
        cluster: Option<ClusterName>,
        /// Those of all clusters
        #[arg(short = 'A', long, conflicts_with = "cluster")]
        all_clusters: bool,
    },
    /// Gather the logs of a cluster's nodes and pods, with what kprov knows of it; keys and tokens are masked
    Logs {
        /// The folder to write to, which must be empty or not exist; a new one below the folder for temporary files if it is
        /// left out
        folder: Option<PathBuf>,
        /// The cluster; may be left out if there is but one
        #[arg(short = 'n', long, visible_alias = "name", value_name = "CLUSTER")]
        cluster: Option<ClusterName>,
    },
    /// Print a cluster's kubeconfig
    Kubeconfig {
        /// The cluster; may be left out if there is but one
        cluster: Option<ClusterName>,
        /// Merge it into your own instead
        #[arg(long)]
        merge: bool,
        /// With the address that other containers on the cluster's network reach it by
        #[arg(long, conflicts_with = "merge")]
        internal: bool,
    },
    /// Run a command on a node
    Exec {
        /// The node, as `kprov status` shows it
        node: String,
        /// The command
        #[arg(last = true, required = true, num_args = 1.., value_name = "CMD")]
        command: Vec<String>,
    },
    /// Check this host and its Docker Engine
    Doctor,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the JSON Schema of profiles, for editors, or of reports
    Schema {
        /// Of what
        #[arg(value_enum, default_value_t)]
        of: SchemaOf,
    },
}

/// What a schema is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SchemaOf {
    /// A profile
    #[default]
    Profile,
    /// What `kprov report` writes as JSON
    Report,
}

/// `kprov up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Which profile.
    #[command(flatten)]
    pub source: Source,
    /// The image of the load balancer in front of several control planes, instead of kind's: haproxy or Envoy
    #[arg(long, value_name = "IMAGE", env = "KPROV_LOAD_BALANCER_IMAGE")]
    pub load_balancer_image: Option<String>,
    /// Make that many clusters side by side, called CLUSTER-1 to CLUSTER-N; fixed host ports are counted up
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=200), conflicts_with = "from")]
    pub count: Option<u16>,
    /// For how long nodes and pods are waited for until all are Ready, such as 90s or 10m
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub wait: Duration,
    /// Start from a snapshot instead of a profile
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["profile", "set"])]
    pub from: Option<SnapshotName>,
    /// Show when each step began and how long it took
    #[arg(long, conflicts_with = "count")]
    pub timings: bool,
    /// Leave everything as it is when something fails
    #[arg(long)]
    pub retain: bool,
}

/// `kprov cis`.
#[derive(Debug, Args)]
pub struct Cis {
    /// The cluster; may be left out if there is but one
    pub cluster: Option<ClusterName>,
    /// Only these sections or controls, such as 1.2 or 5.1.1 (repeatable)
    #[arg(short, long, value_name = "NUMBER", value_delimiter = ',')]
    pub section: Vec<String>,
    /// Only this node; what is about the whole cluster is looked at all the same
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Only controls up to this level
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub level: Option<u8>,
    /// The version of the benchmark, such as cis-2.0, instead of the one for the cluster's Kubernetes
    #[arg(long, value_name = "VERSION")]
    pub benchmark: Option<Benchmark>,
    /// Run the real kube-bench on every node, too, and hold both verdicts side by side; ends with 4 if they differ and nobody
    /// knows why. A program with its folder `cfg` beside it, an archive of its image, or an image
    #[arg(long, value_name = "BINARY|TAR|IMAGE", num_args = 0..=1, require_equals = true, default_missing_value = DEFAULT_IMAGE)]
    pub kube_bench: Option<String>,
    /// Show the evidence of what passed, too
    #[arg(short, long)]
    pub verbose: bool,
    /// What makes the command end with 3
    #[arg(long, value_enum, default_value_t = FailOn::Fail, value_name = "STATUS")]
    pub fail_on: FailOn,
}

/// `kprov break`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("choice").required(true).args(["what", "random"])))]
pub struct Break {
    /// The cluster; may be left out if there is but one
    pub cluster: Option<ClusterName>,
    /// What to break, such as kubelet-anonymous (repeatable); of those that hold
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub what: Vec<String>,
    /// Break so many that hold, whichever they are
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=46), requires = "answers")]
    pub random: Option<u8>,
    /// Write the answers to this file, which must not exist, and show none
    #[arg(long, value_name = "FILE")]
    pub answers: Option<PathBuf>,
}

/// `kprov report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The clusters; may be left out if there is but one
    pub clusters: Vec<ClusterName>,
    /// The file to write; without --since, a page tells what has changed since the one that it replaces
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// A report from before, a page or JSON; what each control was then stands beside what it is (pages only)
    #[arg(long, value_name = "FILE")]
    pub since: Option<PathBuf>,
    /// A report of another cluster, such as a plain one of kind's, to stand beside it as well (pages only)
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Its form, if its ending (.html, .json, .xml, .sarif) does not tell
    #[arg(long = "as", value_enum, value_name = "FORM")]
    pub form: Option<ReportForm>,
}

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportForm {
    /// A page that needs nothing else
    Html,
    /// Everything, for programs
    Json,
    /// JUnit, for CI systems
    Junit,
    /// SARIF 2.1.0, for code scanning
    Sarif,
}

/// What makes `kprov cis` end with 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// A control that is scored and does not hold
    Fail,
    /// Any control that neither holds nor is excepted, and what could not be looked at
    Warn,
    /// Nothing
    Never,
}

/// `kprov render`.
#[derive(Debug, Args)]
pub struct Render {
    /// Which profile.
    #[command(flatten)]
    pub source: Source,
    /// Write a bundle that `kind create cluster --config DIR/cluster.yaml` takes; keys are made, and kept if they are there
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The Kubernetes version to render for, if the image's tag does not tell
    #[arg(long, value_name = "VERSION")]
    pub kubernetes_version: Option<String>,
}

/// A profile, and what is changed of it.
#[derive(Debug, Args)]
pub struct Source {
    /// A profile's name, or a file: a profile or a configuration of kind's, `-` for standard input (repeatable: each is laid
    /// over those before it)
    #[arg(short, long, visible_alias = "config", default_value = "default", value_name = "NAME|FILE")]
    pub profile: Vec<String>,
    /// The cluster's name, instead of the profile's
    #[arg(short, long, value_name = "CLUSTER")]
    pub name: Option<ClusterName>,
    /// The node image, instead of the profile's
    #[arg(long, value_name = "IMAGE", env = "KPROV_IMAGE")]
    pub image: Option<String>,
    /// Change a field of the profile's spec, such as networking.apiServerPort=6443 (repeatable)
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

/// `kprov apiserver`.
#[derive(Debug, Clone, Subcommand)]
pub enum ApiServerCommand {
    /// Set flags
    Set {
        /// The cluster, which may be left out if there is but one; then flags, with or without dashes
        #[arg(required = true, num_args = 1.., value_name = "[CLUSTER] FLAG=VALUE")]
        words: Vec<String>,
    },
    /// Take flags away
    Unset {
        /// The cluster, which may be left out if there is but one; then flags, with or without dashes
        #[arg(required = true, num_args = 1.., value_name = "[CLUSTER] FLAG")]
        words: Vec<String>,
    },
}

/// `kprov load`.
#[derive(Debug, Subcommand)]
pub enum LoadCommand {
    /// Images of the engine, by name
    #[command(visible_alias = "image")]
    DockerImage {
        /// The images
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Where to.
        #[command(flatten)]
        target: LoadTarget,
    },
    /// Archives of images, as `docker save` writes them
    #[command(visible_alias = "archive")]
    ImageArchive {
        /// The files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Where to.
        #[command(flatten)]
        target: LoadTarget,
    },
}

/// Where images are brought to.
#[derive(Debug, Args)]
pub struct LoadTarget {
    /// The cluster; may be left out if there is but one
    #[arg(short = 'n', long, visible_alias = "name", value_name = "CLUSTER")]
    pub cluster: Option<ClusterName>,
    /// Only to these nodes
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub nodes: Vec<String>,
}

/// `kprov encryption`.
#[derive(Debug, Subcommand)]
pub enum EncryptionCommand {
    /// Show what each resource is stored under, counted in etcd, and any unfinished change
    Status {
        /// The cluster; may be left out if there is but one
        cluster: Option<ClusterName>,
    },
    /// Turn encryption on, or encrypt further resources
    Enable {
        /// The provider
        #[arg(long, value_enum, default_value_t = EncryptWith::Secretbox)]
        provider: EncryptWith,
        /// The resources, as in an EncryptionConfiguration
        #[arg(long, value_delimiter = ',', default_value = "secrets")]
        resources: Vec<String>,
        /// The new key's name
        #[arg(long, value_name = "NAME")]
        key: Option<String>,
        /// The profile that says which KMS, for the provider `kms`
        #[arg(long, value_name = "PROFILE", default_value = "kms-vault")]
        kms: String,
        /// How.
        #[command(flatten)]
        how: EncryptionHow,
    },
    /// Change to a new key of the same provider
    Rotate {
        /// The new key's name
        #[arg(long, value_name = "NAME")]
        key: Option<String>,
        /// Of a KMS: once nothing in etcd needs them, have it give up the older versions of the key. What states of before
        /// hold cannot be read any more then
        #[arg(long)]
        retire: bool,
        /// How.
        #[command(flatten)]
        how: EncryptionHow,
    },
    /// Change to another provider
    Migrate {
        /// The provider
        #[arg(long, value_enum, value_name = "PROVIDER")]
        to: EncryptWith,
        /// The new key's name
        #[arg(long, value_name = "NAME")]
        key: Option<String>,
        /// The profile that says which KMS, for `kms`
        #[arg(long, value_name = "PROFILE", default_value = "kms-vault")]
        kms: String,
        /// How.
        #[command(flatten)]
        how: EncryptionHow,
    },
    /// Store everything in the clear again, then remove the keys
    Disable {
        /// How.
        #[command(flatten)]
        how: EncryptionHow,
    },
    /// Complete a change that was interrupted
    Resume {
        /// How.
        #[command(flatten)]
        how: EncryptionHow,
    },
    /// Turn back a change that was interrupted
    Undo {
        /// How.
        #[command(flatten)]
        how: EncryptionHow,
    },
}

/// `kprov kms`.
#[cfg(target_os = "linux")]
#[derive(Debug, Subcommand)]
pub enum KmsCommand {
    /// Serve an API server's KMS requests, v2 and v1, until SIGTERM
    Serve {
        /// The socket to listen at; its folder must be closed to others
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        /// The provider's configuration, YAML or JSON, readable by this user alone
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Show how the plugins of a cluster, or the one at a socket, are doing: provider, key, latencies, login. Exits 0 only
    /// if their KMS works
    Status {
        /// The cluster; may be left out if there is but one
        #[arg(conflicts_with = "socket")]
        cluster: Option<ClusterName>,
        /// Ask the plugin at this socket instead
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Print a plugin's metrics in Prometheus' text format
    Metrics {
        /// The plugin's socket
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
    },
    /// Have any plugin wrap and unwrap random data keys, by v2, as an API server does: is it right, and how fast
    Measure {
        /// The plugin's socket
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        /// How many keys
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        calls: u32,
        /// How many at once
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=200))]
        at_a_time: u32,
    },
    /// Rotate: put a new first key into the key file of the provider `local`, or make the file; or a new version of its key into
    /// the token of `pkcs11`
    AddKey {
        /// The key file
        #[arg(value_name = "FILE", required_unless_present = "config")]
        file: Option<PathBuf>,
        /// What `serve` is configured by, for either provider
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        config: Option<PathBuf>,
    },
}

/// How encryption is changed.
#[derive(Debug, Args)]
pub struct EncryptionHow {
    /// The cluster; may be left out if there is but one
    pub cluster: Option<ClusterName>,
    /// Restart API servers even where they could read new keys without it, which takes up to a minute each time; the
    /// default where there is but one, which does not answer for some seconds then
    #[arg(long, conflicts_with = "no_outage")]
    pub restart: bool,
    /// Wait for an only API server, too, to read new keys without a restart, and leave etcd's write-ahead log there as it is,
    /// which cannot be replaced without one; from Kubernetes 1.26
    #[arg(long)]
    pub no_outage: bool,
    /// Leave what was stored before in etcd's files. Otherwise etcd is compacted and defragmented in the end, and replaces
    /// its write-ahead log, which takes some twenty seconds for each control plane, whose API server is away meanwhile; its
    /// files are searched for what is left
    #[arg(long)]
    pub no_scrub: bool,
    /// Show how this key is stored in etcd, before and after; without a leading slash, below /registry/
    #[arg(long, value_name = "KEY")]
    pub show: Option<String>,
}

/// The providers that encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EncryptWith {
    /// AES-CBC with PKCS#7 padding
    Aescbc,
    /// AES-GCM; must be rotated often
    Aesgcm,
    /// XSalsa20 and Poly1305
    Secretbox,
    /// A KMS plugin: the key stays in a KMS
    Kms,
}

/// `kprov snapshot`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Keep the state of a running cluster under a name
    Save {
        /// The snapshot's name
        name: SnapshotName,
        /// The cluster; may be left out if there is but one
        #[arg(long, value_name = "CLUSTER")]
        cluster: Option<ClusterName>,
        /// Also keep the images that were loaded into its nodes
        #[arg(long)]
        with_images: bool,
    },
    /// List snapshots, and the golden states that `reset` goes back to
    Ls,
    /// Bring a snapshot's cluster back to it, or make it if it is no more
    Restore {
        /// The snapshot's name
        name: SnapshotName,
        /// Make sure that it is this cluster's
        #[arg(long, value_name = "CLUSTER")]
        cluster: Option<ClusterName>,
        /// Leave everything as it is when something fails
        #[arg(long)]
        retain: bool,
    },
    /// Forget a snapshot
    Rm {
        /// The snapshot's name
        name: SnapshotName,
    },
    /// Write a snapshot to a file, encrypted by a passphrase: it holds the cluster's CA and keys
    Export {
        /// The snapshot's name
        name: SnapshotName,
        /// The file, which must not exist
        file: PathBuf,
        /// Write it unencrypted
        #[arg(long, conflicts_with = "passphrase_file")]
        plain: bool,
        /// Read the passphrase from this file, instead of KPROV_PASSPHRASE or the terminal
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Read a snapshot from a file
    Import {
        /// The file
        file: PathBuf,
        /// Its name here, if not the one that it had
        #[arg(long)]
        name: Option<SnapshotName>,
        /// Take it even if it mounts folders of this host, publishes ports, or asks for anything else beyond the default
        #[arg(long)]
        trust: bool,
        /// Read the passphrase from this file, instead of KPROV_PASSPHRASE or the terminal
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
}

/// `kprov etcd`.
#[derive(Debug, Subcommand)]
pub enum EtcdCommand {
    /// List keys
    Keys {
        /// Only keys that start with this; without a leading slash, below /registry/
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Show a value: how it is stored, a hexdump, and its fields if they can be read
    Get {
        /// The key; without a leading slash, below /registry/
        key: String,
        /// Print the raw bytes
        #[arg(long)]
        raw: bool,
    },
}

/// A duration as kind takes it, such as 90s, 5m or 1h30m; a bare number is of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let one = match unit {
            "h" => Duration::from_secs(3600),
            "m" => Duration::from_secs(60),
            "s" | "" => Duration::from_secs(1),
            "ms" => Duration::from_millis(1),
            _ => return Err(format!("{unit:?} is no unit: h, m, s and ms are")),
        };
        let number: u32 = number.parse().map_err(|_| "such as 90s, 5m or 1h30m".to_owned())?;
        total = one.checked_mul(number).and_then(|part| total.checked_add(part)).ok_or("too long")?;
        rest = behind;
    }
    // kind's 0 is not to wait at all; here, there is nothing to prove before all is Ready.
    if total.is_zero() { Err("nodes are always waited for; such as 90s, 5m or 1h30m".to_owned()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_kinds() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h30m", 5400), ("120", 120), ("2000ms", 2)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "0", "0s", "5 m", "5d", "m", "-5m", "1.5h", "9999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_may_come_anywhere() {
        let cli = Cli::try_parse_from(["kprov", "etcd", "get", "secrets/a/b", "--cluster", "c", "-o", "json"]).unwrap();
        assert_eq!(cli.global.output, Output::Json);
        assert!(matches!(cli.command, Command::Etcd { cluster: Some(name), .. } if name == "c"));
    }

    #[test]
    fn flags_of_the_api_server_may_have_dashes_and_options_may_follow_them() {
        let parse = |line: &str| {
            let words = line.split(' ').map(Into::into).collect();
            let cli = Cli::try_parse_from(undashed(words)).map_err(|error| error.kind())?;
            let Command::ApiServer { command: ApiServerCommand::Set { words } | ApiServerCommand::Unset { words } } =
                cli.command
            else {
                panic!("{line}")
            };
            Ok((words.join(" "), cli.global.output))
        };
        let json = |words: &str| Ok((words.to_owned(), Output::Json));
        assert_eq!(parse("kprov apiserver set lab --profiling=false v=4 -o json"), json("lab profiling=false v=4"));
        assert_eq!(parse("kprov -o json apiserver set --v=4"), json("v=4"));
        assert_eq!(parse("kprov apiserver set --output=json lab v=4"), json("lab v=4"));
        assert_eq!(parse("kprov apiserver unset lab --profiling --output json"), json("lab profiling"));
        assert_eq!(parse("kprov apiserver set lab --nonesuch"), Err(clap::error::ErrorKind::UnknownArgument));
        assert_eq!(parse("kprov apiserver set --help"), Err(clap::error::ErrorKind::DisplayHelp));
    }
}
