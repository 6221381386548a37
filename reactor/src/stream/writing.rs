//! The way out: from a write call to the connection's queue, or straight to the socket.

use std::io::{self, IoSlice};
use std::rc::Rc;

use super::Transport;
use super::connection::{Connection, is_shortage};
use super::options::check_watermarks;
use crate::agenda::Agenda;
use crate::callback::CallbackResult;
use crate::datagram::Completion;
use crate::error::{Closed, OptionError, WriteError};

/// From this length on a write is offered to the system at once, out of the caller's memory;
/// below it copying is cheaper than a system call of its own.
const DIRECT: usize = 16 * 1024;
/// So many gathered bytes are sent without waiting for the end of the callback.
const GATHERED: usize = 64 * 1024;

/// What is to be written.
enum Data<'a> {
    Borrowed(&'a [IoSlice<'a>]),
    Owned(Vec<u8>),
}

impl Transport {
    /// Sends `data` after all that was written before. The writes of a callback leave together
    /// when it returns, before the loop waits again; `Ok` says that the bytes are on their way,
    /// or wait for the system to have room.
    ///
    /// # Errors
    /// [`WriteError::Closed`] once the connection is closed or closing, and
    /// [`WriteError::BufferFull`] when more bytes would wait than
    /// [`write_limit`](crate::TcpOptions::write_limit) allows. Nothing of `data` is sent then.
    pub fn write(&self, data: &[u8]) -> Result<(), WriteError> {
        match self.with(|connection, agenda| connection.gather(data, agenda)) {
            Some(true) => Ok(()),
            Some(false) => self.enqueue(Data::Borrowed(&[IoSlice::new(data)]), None),
            None => Err(WriteError::Closed),
        }
    }

    /// Sends the pieces one after the other, as one [`write`](Self::write).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> Result<(), WriteError> {
        self.enqueue(Data::Borrowed(pieces), None)
    }

    /// Sends bytes that the connection then owns: they are not copied, however long they wait.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_bytes(&self, data: impl Into<Vec<u8>>) -> Result<(), WriteError> {
        self.enqueue(Data::Owned(data.into()), None)
    }

    /// Sends `data` and calls `done` from the loop, once: with its length when all of it was
    /// handed to the system, or with the error that kept it from that.
    ///
    /// # Errors
    /// As [`write`](Self::write); `done` is then dropped without a call.
    pub fn write_then<F, R>(&self, data: &[u8], done: F) -> Result<(), WriteError>
    where
        F: FnOnce(Result<usize, WriteError>) -> R + 'static,
        R: CallbackResult + 'static,
    {
        let done: Completion = Box::new(move |result| done(result).into_result());
        self.enqueue(Data::Borrowed(&[IoSlice::new(data)]), Some(done))
    }

    /// Hands what it can of `data` to the system before it returns, and keeps nothing: returns
    /// how many bytes were taken.
    ///
    /// # Errors
    /// [`WriteError::WouldBlock`] if anything written before still waits, or the system has no
    /// room; [`WriteError::Closed`]; [`WriteError::Io`] when the connection turns out to be
    /// broken, which `connection_lost` will be told, too.
    pub fn try_write(&self, data: &[u8]) -> Result<usize, WriteError> {
        self.with(|connection, agenda| connection.try_write(data, agenda))
            .unwrap_or(Err(WriteError::Closed))
    }

    /// Offers everything written so far to the system now, instead of when the callback returns.
    ///
    /// # Errors
    /// [`WriteError::WouldBlock`] if some still waits for room; [`WriteError::Closed`], also if the
    /// connection turns out to be broken.
    pub fn flush(&self) -> Result<(), WriteError> {
        self.with(|connection, agenda| {
            connection.settle(agenda);
            match connection.queue.is_empty() {
                _ if connection.is_broken() => Err(WriteError::Closed),
                true => Ok(()),
                false => Err(WriteError::WouldBlock),
            }
        })
        .unwrap_or(Err(WriteError::Closed))
    }

    /// Bytes written and not yet taken by the system; 0 once closed.
    pub fn queued_bytes(&self) -> usize {
        self.with(|connection, _| connection.waiting()).unwrap_or(0)
    }

    /// The watermarks, low and high.
    ///
    /// # Errors
    /// [`OptionError::Closed`].
    pub fn write_watermarks(&self) -> Result<(usize, usize), OptionError> {
        self.with(|connection, _| {
            (connection.tuning.low_watermark, connection.tuning.high_watermark)
        })
        .ok_or(OptionError::Closed)
    }

    /// Sets how many bytes must wait for room for
    /// [`pause_writing`](crate::Protocol::pause_writing) to be called (more than `high`) and for [`resume_writing`](crate::Protocol::resume_writing) (no
    /// more than `low`).
    ///
    /// # Errors
    /// [`OptionError::Contradiction`] if `low` is above `high`; `Closed`.
    pub fn set_write_watermarks(&self, low: usize, high: usize) -> Result<(), OptionError> {
        check_watermarks(low, high)?;
        self.with(|connection, agenda| {
            let tuning = Rc::make_mut(&mut connection.tuning);
            (tuning.low_watermark, tuning.high_watermark) = (low, high);
            connection.check_watermarks(agenda);
        })
        .ok_or(OptionError::Closed)
    }

    /// Has [`resume_writing`](crate::Protocol::resume_writing) called, from the loop, as soon as no
    /// more bytes wait than the low watermark; in this turn, if that is so already.
    ///
    /// For a protocol that stops producing by itself, in the middle of a callback, because
    /// [`queued_bytes`](Self::queued_bytes) has grown: without this it may never be called again,
    /// for the system may take all of it when the callback returns, and then there is no
    /// `pause_writing`. Nor is there one after this, until `resume_writing` was called.
    ///
    /// ```
    /// use strand_reactor::{Protocol, Transport};
    /// /// Sends many numbers, and holds few of them.
    /// struct Numbers(std::ops::Range<u32>);
    /// impl Protocol for Numbers {
    ///     fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
    ///         self.resume_writing(transport)
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
    ///         Ok(())
    ///     }
    ///     fn resume_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
    ///         for number in &mut self.0 {
    ///             transport.write(&number.to_be_bytes())?;
    ///             if transport.queued_bytes() > 4096 {
    ///                 transport.request_resume_writing()?;
    ///                 return Ok(());
    ///             }
    ///         }
    ///         transport.lose_connection();
    ///         Ok(())
    ///     }
    /// }
    /// # use strand_reactor::{PeerAddr, Reactor};
    /// # let reactor = Reactor::new()?;
    /// # let port = reactor.listen_tcp("127.0.0.1:0", |_: PeerAddr| Some(Numbers(0..100_000)))?;
    /// # let address = port.local_addr()?;
    /// # let client = std::thread::spawn(move || {
    /// #     let mut stream = std::net::TcpStream::connect(address).unwrap();
    /// #     std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    /// # });
    /// # while port.stats()?.accepted == 0 {
    /// #     reactor.iterate(None)?;
    /// # }
    /// # port.stop_listening();
    /// # reactor.run()?;
    /// # assert_eq!(client.join().unwrap(), 400_000);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`] once the connection is closed or closing.
    pub fn request_resume_writing(&self) -> Result<(), Closed> {
        self.with(|connection, agenda| {
            if !connection.is_writable() {
                return Err(Closed);
            }
            connection.writing_paused = true;
            connection.check_watermarks(agenda);
            Ok(())
        })
        .unwrap_or(Err(Closed))
    }

    #[inline(never)]
    fn enqueue(&self, data: Data<'_>, completion: Option<Completion>) -> Result<(), WriteError> {
        let mut completion = completion;
        let result =
            self.with(|connection, agenda| connection.enqueue(data, &mut completion, agenda));
        // A completion that will not be called is user code to drop, with nothing borrowed.
        drop(completion);
        result.unwrap_or(Err(WriteError::Closed))
    }
}

impl Connection {
    /// Bytes written and not yet taken by the system.
    pub(super) fn waiting(&self) -> usize {
        self.queue.bytes() + self.stack().map_or(0, |stack| stack.pending)
    }

    /// Appends a copy of what leaves when the callback under way returns. False if it is not as
    /// simple as that, and nothing was done.
    #[inline]
    fn gather(&mut self, data: &[u8], agenda: &mut Agenda) -> bool {
        let bytes = self.queue.bytes() + data.len();
        let simple = self.held
            && self.is_carefree()
            && self.stack().is_none()
            && data.len() < DIRECT
            && bytes < GATHERED
            && bytes <= self.tuning.write_limit;
        if simple {
            self.queue.push(data, &mut agenda.streams.spares);
            self.note_waiting(bytes);
        }
        simple
    }

    fn enqueue(
        &mut self,
        data: Data<'_>,
        completion: &mut Option<Completion>,
        agenda: &mut Agenda,
    ) -> Result<(), WriteError> {
        if !self.is_writable() {
            return Err(WriteError::Closed);
        }
        let len = match &data {
            Data::Borrowed(pieces) => pieces.iter().map(|piece| piece.len()).sum(),
            Data::Owned(data) => data.len(),
        };
        let limit = self.tuning.write_limit;
        if self.waiting().saturating_add(len) > limit && self.waiting() > 0 {
            if !self.blocked {
                self.send(&[], agenda);
            }
            let bytes = self.waiting();
            if bytes.saturating_add(len) > limit && bytes > 0 {
                return Err(WriteError::BufferFull { bytes, limit });
            }
            if !self.is_writable() {
                return Err(WriteError::Closed);
            }
        }
        if self.stack().is_some() {
            let data = match data {
                Data::Borrowed(pieces) => {
                    pieces.iter().flat_map(|piece| piece.iter()).copied().collect()
                }
                Data::Owned(data) => data,
            };
            self.write_to_layers(data, completion, agenda);
            return Ok(());
        }
        let spares = &mut agenda.streams.spares;
        match data {
            Data::Owned(data) => self.queue.push_owned(data, spares),
            Data::Borrowed(pieces) if len < DIRECT || self.blocked => {
                for piece in pieces {
                    self.queue.push(piece, spares);
                }
            }
            Data::Borrowed(pieces) => {
                if let Some(completion) = completion.take() {
                    self.queue.mark_beyond(len, len, completion, &mut agenda.streams.spares);
                }
                let (skip, offset) = self.send(pieces, agenda);
                // Broken by this very write, it has told the completion, and will tell the loss:
                // a part of it may have left.
                let rest = if self.is_writable() { &pieces[skip..] } else { &[] };
                let mut from = offset;
                for piece in rest {
                    self.queue
                        .push(&piece[std::mem::take(&mut from)..], &mut agenda.streams.spares);
                }
            }
        }
        if let Some(completion) = completion.take() {
            self.queue.mark(len, completion, &mut agenda.streams.spares);
            self.tell_written(agenda);
        }
        if !self.blocked && self.queue.bytes() >= GATHERED {
            self.send(&[], agenda);
        }
        self.check_watermarks(agenda);
        self.account(agenda);
        self.make_dirty(agenda);
        Ok(())
    }

    fn try_write(&mut self, data: &[u8], agenda: &mut Agenda) -> Result<usize, WriteError> {
        if !self.is_writable() {
            return Err(WriteError::Closed);
        }
        self.settle(agenda);
        if !self.is_writable() {
            // Broken by what waited: nothing may follow what was lost with it.
            return Err(WriteError::Closed);
        }
        if !self.queue.is_empty() || self.stack().is_some() {
            return Err(WriteError::WouldBlock);
        }
        if data.is_empty() {
            return Ok(0);
        }
        match self.socket.write(data) {
            Ok(len) => {
                self.count_write(len);
                Ok(len)
            }
            // Want of memory passes, and breaks nothing.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_shortage(&error) => {
                self.rare_stats().would_block += 1;
                Err(WriteError::WouldBlock)
            }
            Err(error) => {
                let told = match error.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => error.kind().into(),
                };
                self.write_failed(error, agenda);
                Err(WriteError::Io(told))
            }
        }
    }
}
