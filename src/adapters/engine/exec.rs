//! Commands in running containers.

use std::convert::Infallible;

use bollard::container::LogOutput;
use bollard::errors::Error as BollardError;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::{Engine, EngineError};

/// A command to be run in a container.
#[derive(Clone, Default)]
pub struct ExecSpec {
    /// The command and its arguments. Other users of the host can see them: no secrets.
    pub command: Vec<String>,
    /// Additional environment, `NAME=value`.
    pub env: Vec<String>,
    /// What the command reads from its standard input; wiped when dropped.
    pub stdin: Option<Zeroizing<Vec<u8>>>,
    /// How many bytes it may print, if there is a bound: whoever is root in a container decides what a command prints.
    pub most: Option<usize>,
}

/// What a command has printed, and how it ended.
#[derive(Clone)]
pub struct ExecOutput {
    /// Its exit code.
    pub code: i64,
    /// Its standard output; wiped when dropped.
    pub stdout: Zeroizing<Vec<u8>>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// The caller's end of an interactive command.
pub struct Terminal<I, O, E> {
    /// What the command reads.
    pub input: I,
    /// Where its standard output goes.
    pub output: O,
    /// Where its standard error goes.
    pub errors: E,
    /// Rows and columns, if it gets a pseudo-terminal.
    pub size: Option<(u16, u16)>,
}

impl Engine {
    /// Runs a command in a container and waits for its end.
    ///
    /// # Errors
    /// [`EngineError`] if it could not be run; a command that fails is no error here.
    pub async fn exec(&self, container: &str, spec: ExecSpec) -> Result<ExecOutput, EngineError> {
        let input = spec.stdin.map(|bytes| stream::iter([bytes]));
        self.exec_reading(container, spec.command, spec.env, input, spec.most).await
    }

    /// Runs a command in a container and waits for its end; what it reads comes in pieces. They are dropped once it reads
    /// no more.
    ///
    /// # Errors
    /// [`EngineError`] if it could not be run; a command that fails is no error here.
    pub async fn exec_fed(
        &self,
        container: &str,
        command: Vec<String>,
        input: impl Stream<Item = Bytes>,
    ) -> Result<ExecOutput, EngineError> {
        self.exec_reading(container, command, Vec::new(), Some(input), None).await
    }

    async fn exec_reading<B: AsRef<[u8]>>(
        &self,
        container: &str,
        command: Vec<String>,
        env: Vec<String>,
        from: Option<impl Stream<Item = B>>,
        most: Option<usize>,
    ) -> Result<ExecOutput, EngineError> {
        let command_name = command.first().cloned().unwrap_or_default();
        let doing = format!("running {command_name} in {container}");
        let options = CreateExecOptions {
            cmd: Some(command),
            env: Some(env),
            attach_stdin: Some(from.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let fail = |error| self.exec_error(container, doing.clone(), error);
        let id = self.docker.create_exec(container, options).await.map_err(fail)?.id;
        let started = self.docker.start_exec(&id, None).await.map_err(fail)?;
        let (mut stdout, mut stderr) = (Zeroizing::new(Vec::new()), Vec::new());
        if let StartExecResults::Attached { mut output, mut input } = started {
            let feed = async move {
                if let Some(from) = from {
                    let mut from = std::pin::pin!(from);
                    while let Some(bytes) = from.next().await {
                        // A command may end without reading all of its input: no error.
                        if input.write_all(bytes.as_ref()).await.is_err() {
                            break;
                        }
                    }
                    let _ = input.flush().await;
                }
                let _ = input.shutdown().await;
            };
            let drain = async {
                while let Some(chunk) = output.next().await {
                    let chunk = chunk.map_err(fail)?;
                    let most = most.unwrap_or(usize::MAX);
                    if stdout.len() + stderr.len() + chunk.as_ref().len() > most {
                        let path = format!("what `{command_name}` prints");
                        return Err(EngineError::Large { path, container: container.to_owned(), most });
                    }
                    match chunk {
                        LogOutput::StdErr { message } => stderr.extend_from_slice(&message),
                        other => stdout.extend_from_slice(other.as_ref()),
                    }
                }
                Ok::<_, EngineError>(())
            };
            let ((), ()) = tokio::try_join!(
                async {
                    feed.await;
                    Ok(())
                },
                drain
            )?;
        }
        let code = self.docker.inspect_exec(&id).await.map_err(fail)?.exit_code.unwrap_or(-1);
        Ok(ExecOutput { code, stdout, stderr })
    }

    /// Runs a command for a person: streams both ways until it ends, and gives its exit code.
    ///
    /// # Errors
    /// [`EngineError`] if it could not be run.
    pub async fn exec_interactive<I, O, E>(
        &self,
        container: &str,
        command: Vec<String>,
        terminal: Terminal<I, O, E>,
    ) -> Result<i64, EngineError>
    where
        I: AsyncRead + Unpin,
        O: AsyncWrite + Unpin,
        E: AsyncWrite + Unpin,
    {
        let Terminal { input: from_user, output: to_user, errors: to_user_errors, size } = terminal;
        let doing = format!("running {} in {container}", command.first().map_or("", String::as_str));
        let fail = |error| self.exec_error(container, doing.clone(), error);
        let options = CreateExecOptions {
            cmd: Some(command),
            tty: Some(size.is_some()),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let id = self.docker.create_exec(container, options).await.map_err(fail)?.id;
        let start = StartExecOptions { detach: false, tty: size.is_some(), output_capacity: None };
        let started = self.docker.start_exec(&id, Some(start)).await.map_err(fail)?;
        if let Some((height, width)) = size {
            // A shell works without knowing its size, too.
            let _ = self.docker.resize_exec(&id, ResizeExecOptions { height, width }).await;
        }
        if let StartExecResults::Attached { output, input } = started {
            tokio::select! {
                never = type_in(from_user, input) => match never {},
                shown = show(output, to_user, to_user_errors) => shown.map_err(fail)?,
            }
        }
        Ok(self.docker.inspect_exec(&id).await.map_err(fail)?.exit_code.unwrap_or(-1))
    }

    /// Why a command could not be run: if the engine refuses, that is for the container's state.
    fn exec_error(&self, container: &str, doing: String, error: BollardError) -> EngineError {
        match self.error(doing, error) {
            EngineError::Conflict { doing, reason } => {
                EngineError::NotRunning { container: container.to_owned(), doing, reason }
            }
            other => other,
        }
    }
}

/// Passes on what the user types. Does not end with it, since the command goes on.
async fn type_in(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> Infallible {
    let mut buffer = [0_u8; 8192];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if pass_on(&mut to, &buffer[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
    std::future::pending().await
}

/// Shows what a command prints, until it ends or nobody looks any more.
async fn show(
    mut output: impl Stream<Item = Result<LogOutput, BollardError>> + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut errors: impl AsyncWrite + Unpin,
) -> Result<(), BollardError> {
    while let Some(chunk) = output.next().await {
        let shown = match chunk? {
            LogOutput::StdErr { message } => pass_on(&mut errors, &message).await,
            other => pass_on(&mut to, other.as_ref()).await,
        };
        if shown.is_err() {
            break;
        }
    }
    Ok(())
}

async fn pass_on(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}
