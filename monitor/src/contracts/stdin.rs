//! The contract `stdin`: the request's body is the program's stdin, its stdout the response's body.
//!
//! The response waits for the end of the program, since its exit status decides what the response is. So the output is held
//! here, up to the limit; a longer one is a failure of the function, not a truncated answer.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::connection::{Connection, Lost, PIECE, poll_all};
use super::{Answer, Ending, ExitNotice, Failure, Outcome};
use crate::errno::Errno;
use crate::sys;

/// The monitor's ends of the program's standard streams.
pub struct StdinPipes {
    /// Where the program's stdin is written.
    pub stdin: OwnedFd,
    /// Where the program's stdout is read.
    pub stdout: OwnedFd,
}

/// Serves one call: from the request's first byte to the response's last.
///
/// Preconditions: the envelope has been read; the thread blocks all signals (`contracts::spawn`); nobody else holds the
/// program's end of `stdout` when it ends, or at least writes there no more.
pub fn run_stdin(connection: OwnedFd, pipes: StdinPipes, exit: &ExitNotice, output_limit: usize) -> Outcome {
    let mut connection = Connection::new(connection);
    let (answer, ending) = match Pump::new(&mut connection, pipes, exit, output_limit) {
        Ok(pump) => pump.run(),
        Err(error) => (Answer::Broken(format!("pipe: {error}")), None),
    };
    Outcome {
        answer,
        ending,
        bytes_in: connection.bytes_in,
        bytes_out: connection.bytes_out,
    }
}

/// Why the pump stopped.
enum Stop {
    Ended(Ending),
    OutputLimit,
    Lost(Lost),
    Broken(Errno),
}

impl From<Lost> for Stop {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<Errno> for Stop {
    fn from(error: Errno) -> Self {
        Self::Broken(error)
    }
}

struct Pump<'call> {
    connection: &'call mut Connection,
    exit: &'call ExitNotice,
    /// Closed at the end of the body, or when the program closed its end.
    stdin: Option<OwnedFd>,
    /// Closed when every writer has closed its end.
    stdout: Option<OwnedFd>,
    /// Body bytes for stdin, at most a piece of them and what one read brings.
    pending: Vec<u8>,
    output: Vec<u8>,
    limit: usize,
    piece: Box<[u8]>,
}

impl<'call> Pump<'call> {
    fn new(
        connection: &'call mut Connection,
        pipes: StdinPipes,
        exit: &'call ExitNotice,
        limit: usize,
    ) -> Result<Self, Errno> {
        // The program's ends are other open files and go on blocking.
        sys::set_nonblocking(&pipes.stdin)?;
        sys::set_nonblocking(&pipes.stdout)?;
        let piece = vec![0; PIECE].into_boxed_slice();
        let (stdin, stdout) = (Some(pipes.stdin), Some(pipes.stdout));
        Ok(Self {
            connection,
            exit,
            stdin,
            stdout,
            pending: Vec::new(),
            output: Vec::new(),
            limit,
            piece,
        })
    }

    fn run(mut self) -> (Answer, Option<Ending>) {
        match self.pump() {
            Stop::Ended(ending) => (self.answer(ending), Some(ending)),
            Stop::OutputLimit => {
                let message = format!("more than {} bytes of output", self.limit);
                (self.connection.fail(Failure::OutputLimit, Some(message)), None)
            }
            Stop::Lost(lost) => (self.connection.refuse(lost), None),
            Stop::Broken(error) => (Answer::Broken(format!("pipe: {error}")), None),
        }
    }

    fn answer(&mut self, ending: Ending) -> Answer {
        match ending {
            Ending::Exited(0) => {
                let headers = [("Content-Type", "application/octet-stream")];
                match self.connection.respond(200, &headers, &self.output) {
                    Ok(()) => Answer::Sent,
                    Err(lost) => lost.into(),
                }
            }
            Ending::Exited(status) => self.connection.fail(Failure::Exit(status), None),
            Ending::Signaled(number) => self.connection.fail(Failure::Signal(number), None),
        }
    }

    fn pump(&mut self) -> Stop {
        // The server's own limit on bodies holds; here nothing grows with a body.
        if let Err(lost) = self.connection.request(u64::MAX) {
            return lost.into();
        }
        loop {
            match self.turn() {
                Ok(()) => {}
                Err(stop) => return stop,
            }
        }
    }

    /// Waits once and does all that is possible then.
    fn turn(&mut self) -> Result<(), Stop> {
        self.connection.take_body(&mut self.pending)?;
        if self.stdin.is_none() {
            // Nobody reads it any more; the server must be able to write it all the same.
            self.pending.clear();
        }
        if self.connection.body_done() && self.pending.is_empty() {
            self.stdin = None;
        }
        let reading = !self.connection.body_done() && self.pending.len() < PIECE;
        let watch = |fd: Option<&OwnedFd>, events| libc::pollfd {
            fd: fd.map_or(-1, AsRawFd::as_raw_fd),
            events,
            revents: 0,
        };
        let mut polls = [
            libc::pollfd {
                fd: self.connection.as_fd().as_raw_fd(),
                events: if reading { libc::POLLIN } else { 0 },
                revents: 0,
            },
            watch(
                self.stdin.as_ref(),
                if self.pending.is_empty() { 0 } else { libc::POLLOUT },
            ),
            watch(self.stdout.as_ref(), libc::POLLIN),
            libc::pollfd {
                fd: self.exit.as_fd().as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            },
        ];
        poll_all(&mut polls, None)?;
        let [connection, stdin, stdout, exit] = polls.map(|poll| poll.revents);
        if stdin & libc::POLLERR != 0 {
            self.stdin = None;
        } else if stdin & libc::POLLOUT != 0 {
            self.feed()?;
        }
        if stdout != 0 {
            self.collect()?;
        }
        if exit != 0
            && let Some(ending) = self.exit.take()
        {
            // What was written before the end is in the pipe.
            while self.collect()? {}
            return Err(Stop::Ended(ending));
        }
        if connection & libc::POLLIN != 0 {
            self.connection.receive(PIECE)?;
        } else if connection != 0 {
            return Err(Lost::Abandoned.into());
        }
        Ok(())
    }

    /// Writes pending bytes to the program.
    fn feed(&mut self) -> Result<(), Errno> {
        let Some(stdin) = &self.stdin else { return Ok(()) };
        match sys::write(stdin, &self.pending) {
            Ok(count) => {
                self.pending.drain(..count);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // The program does not want the rest. SIGPIPE is blocked in this thread.
            Err(Errno(libc::EPIPE)) => self.stdin = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads once from the program; whether there may be more at once.
    fn collect(&mut self) -> Result<bool, Stop> {
        let Some(stdout) = &self.stdout else {
            return Ok(false);
        };
        match sys::read(stdout, &mut self.piece) {
            Ok(0) => self.stdout = None,
            Ok(count) if self.output.len() + count > self.limit => return Err(Stop::OutputLimit),
            // The jail bounds the monitor's own memory too: what cannot be held is over a limit like any other.
            Ok(count) if self.output.try_reserve(count).is_err() => return Err(Stop::OutputLimit),
            Ok(count) => {
                self.output.extend_from_slice(&self.piece[..count]);
                return Ok(true);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write, pipe};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::thread::JoinHandle;

    use super::super::spawn;
    use super::*;

    /// The server's and the program's side of a call.
    struct Call {
        server: UnixStream,
        stdin: std::io::PipeReader,
        stdout: std::io::PipeWriter,
        exit: Arc<ExitNotice>,
        helper: JoinHandle<Outcome>,
    }

    fn call(limit: usize) -> Call {
        let (server, instance) = UnixStream::pair().unwrap();
        let (stdin, writer) = pipe().unwrap();
        let (reader, stdout) = pipe().unwrap();
        let exit = Arc::new(ExitNotice::new().unwrap());
        let told = Arc::clone(&exit);
        let pipes = StdinPipes {
            stdin: writer.into(),
            stdout: reader.into(),
        };
        let helper = spawn("helper", move || run_stdin(instance.into(), pipes, &told, limit)).unwrap();
        Call {
            server,
            stdin,
            stdout,
            exit,
            helper,
        }
    }

    fn response(server: &mut UnixStream) -> String {
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn post(body: &str) -> String {
        format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn body_goes_in_and_output_comes_back() {
        let mut call = call(1000);
        call.server.write_all(post("hello").as_bytes()).unwrap();
        let mut input = String::new();
        call.stdin.read_to_string(&mut input).unwrap();
        call.stdout.write_all(input.to_uppercase().as_bytes()).unwrap();
        call.exit.tell(Ending::Exited(0));
        assert_eq!(
            response(&mut call.server),
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 5\r\nConnection: close\r\n\r\nHELLO"
        );
        let outcome = call.helper.join().unwrap();
        assert_eq!(
            (outcome.answer, outcome.ending),
            (Answer::Sent, Some(Ending::Exited(0)))
        );
        assert_eq!(outcome.bytes_in, u64::try_from(post("hello").len()).unwrap());
        assert!(outcome.bytes_out > 5);
    }

    #[test]
    fn a_large_chunked_body_streams_both_ways() {
        let mut call = call(64 << 20);
        let (mut stdin, mut stdout) = (call.stdin, call.stdout);
        let exit = Arc::clone(&call.exit);
        let program = std::thread::spawn(move || {
            let copied = std::io::copy(&mut stdin, &mut stdout).unwrap();
            exit.tell(Ending::Exited(0));
            copied
        });
        let mut server = call.server.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            server
                .write_all(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
                .unwrap();
            for _ in 0..1000 {
                server.write_all(b"4E20\r\n").unwrap();
                server.write_all(&[b'z'; 20_000]).unwrap();
                server.write_all(b"\r\n").unwrap();
            }
            server.write_all(b"0\r\n\r\n").unwrap();
        });
        let answer = response(&mut call.server);
        assert!(answer.contains("Content-Length: 20000000\r\n"));
        assert_eq!(answer.len() - answer.find("\r\n\r\n").unwrap() - 4, 20_000_000);
        writer.join().unwrap();
        assert_eq!(program.join().unwrap(), 20_000_000);
        assert_eq!(call.helper.join().unwrap().answer, Answer::Sent);
    }

    #[test]
    fn a_program_that_never_reads_gets_its_answer_through() {
        for keeps_stdin in [true, false] {
            let mut call = call(1000);
            if !keeps_stdin {
                drop(call.stdin);
            }
            let mut server = call.server.try_clone().unwrap();
            let writer = std::thread::spawn(move || server.write_all(post(&"x".repeat(4 << 20)).as_bytes()));
            call.stdout.write_all(b"done").unwrap();
            call.exit.tell(Ending::Exited(0));
            assert!(response(&mut call.server).ends_with("\r\n\r\ndone"));
            assert_eq!(call.helper.join().unwrap().answer, Answer::Sent);
            writer.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_program_that_closes_stdin_early_goes_on() {
        let mut call = call(1000);
        let mut server = call.server.try_clone().unwrap();
        let writer = std::thread::spawn(move || server.write_all(post(&"x".repeat(4 << 20)).as_bytes()));
        let mut some = [0; 10];
        call.stdin.read_exact(&mut some).unwrap();
        drop(call.stdin);
        // The whole body is taken although nobody reads it.
        writer.join().unwrap().unwrap();
        call.stdout.write_all(b"enough").unwrap();
        call.exit.tell(Ending::Exited(0));
        assert!(response(&mut call.server).ends_with("\r\n\r\nenough"));
        assert_eq!(
            call.helper.join().unwrap().bytes_in,
            u64::try_from(post(&"x".repeat(4 << 20)).len()).unwrap()
        );
    }

    #[test]
    fn a_program_may_write_without_end_before_it_reads() {
        let mut call = call(8 << 20);
        let (mut stdin, mut stdout) = (call.stdin, call.stdout);
        let exit = Arc::clone(&call.exit);
        let program = std::thread::spawn(move || {
            stdout.write_all(&[b'y'; 4 << 20]).unwrap();
            let mut input = Vec::new();
            stdin.read_to_end(&mut input).unwrap();
            exit.tell(Ending::Exited(0));
            input.len()
        });
        call.server
            .write_all(post(&"x".repeat(32 << 10)).as_bytes())
            .unwrap();
        assert!(response(&mut call.server).ends_with("yyy"));
        assert_eq!(program.join().unwrap(), 32 << 10);
    }

    #[test]
    fn a_failed_program_is_a_500_with_its_reason_and_no_output() {
        for (ending, reason) in [
            (Ending::Exited(3), "exit status 3"),
            (Ending::Signaled(11), "signal 11"),
        ] {
            let mut call = call(1000);
            call.server.write_all(post("").as_bytes()).unwrap();
            call.stdout.write_all(b"secret").unwrap();
            call.exit.tell(ending);
            assert_eq!(
                response(&mut call.server),
                format!(
                    "HTTP/1.1 500 Internal Server Error\r\nX-Mayfly-Failure: {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
            );
            let outcome = call.helper.join().unwrap();
            assert!(matches!(outcome.answer, Answer::Failed(_, None)));
            assert_eq!(outcome.ending, Some(ending));
        }
    }

    #[test]
    fn output_over_the_limit_is_a_failure_at_once() {
        let mut call = call(1000);
        call.server.write_all(post("").as_bytes()).unwrap();
        call.stdout.write_all(&[b'x'; 1001]).unwrap();
        assert!(response(&mut call.server).contains("X-Mayfly-Failure: output limit\r\n"));
        let outcome = call.helper.join().unwrap();
        assert_eq!(outcome.receipt().0, crate::control::Cause::Output);

        let mut exact = self::call(1000);
        exact.server.write_all(post("").as_bytes()).unwrap();
        exact.stdout.write_all(&[b'x'; 1000]).unwrap();
        exact.exit.tell(Ending::Exited(0));
        assert!(response(&mut exact.server).contains("Content-Length: 1000\r\n"));
    }

    #[test]
    fn a_caller_that_goes_away_ends_the_call() {
        let whole = post("body");
        // Before the head, within the body, and while the program works.
        for sent in ["", &whole[..whole.len() - 2], &whole] {
            let mut call = call(1000);
            call.server.write_all(sent.as_bytes()).unwrap();
            drop(call.server);
            let outcome = call.helper.join().unwrap();
            assert_eq!(
                (outcome.answer, outcome.ending),
                (Answer::Abandoned, None),
                "{sent:?}"
            );
        }
    }

    #[test]
    fn a_head_request_gets_a_head() {
        let mut call = call(1000);
        call.server.write_all(b"HEAD / HTTP/1.1\r\n\r\n").unwrap();
        call.stdout.write_all(b"four").unwrap();
        call.exit.tell(Ending::Exited(0));
        assert!(response(&mut call.server).ends_with("Content-Length: 4\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (wrong, status) in [
            ("GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz", 400),
            ("GET / HTTP/1.0\r\n\r\n", 505),
        ] {
            let mut call = call(1000);
            call.server.write_all(wrong.as_bytes()).unwrap();
            assert!(
                response(&mut call.server).starts_with(&format!("HTTP/1.1 {status} ")),
                "{wrong:?}"
            );
            assert!(matches!(call.helper.join().unwrap().answer, Answer::Refused(_)));
        }
    }
}
