//! Layers: filters between a connection and its protocol (DESIGN decision 13).
//!
//! The layers of a connection are a stack; the first pushed is nearest to the socket. What is
//! received climbs it, what is written descends, and each layer may change, hold back or add to
//! both. They are user code, so they are called from the loop alone: a write only queues an
//! [`Input`], which [`run`] takes through the stack.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use super::connection::{Phase, Ready, lost};
use super::{BUFFER_LEN, Connection, StreamNotice, Transport, closing, delivery};
use crate::agenda::{Agenda, Notice};
use crate::callback::guarded;
use crate::datagram::Completion;
use crate::error::{Closed, ConnectionLost, WriteError};
use crate::inner::Inner;
use crate::slots::Key;

/// A filter between a connection and its protocol: encryption, throttling, a log of the traffic.
///
/// Every method has a default, which passes on what comes. An error closes the connection with
/// that error as its reason; what the layer had [sent](Flow::send) in that call, such as an alert,
/// still leaves, and what it had delivered in it is dropped.
///
/// ```
/// use strand_reactor::{Flow, StreamLayer};
/// /// Swaps upper and lower case in what is received.
/// struct Swap;
/// impl StreamLayer for Swap {
///     fn received(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
///         let swapped = data.iter().map(|byte| byte ^ 0x20).collect::<Vec<_>>();
///         flow.deliver(&swapped);
///         Ok(())
///     }
/// }
/// let layer: Box<dyn StreamLayer> = Box::new(Swap);
/// # drop(layer);
/// ```
pub trait StreamLayer {
    /// The layer is in its place: called once, and first, from the loop. What it sends now goes
    /// before all that is written after the push.
    fn attached(&mut self, transport: &Transport, flow: &mut Flow) -> anyhow::Result<()> {
        let _ = (transport, flow);
        Ok(())
    }

    /// Bytes came from below. What was not [delivered](Flow::deliver) or kept is gone.
    fn received(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        flow.deliver(data);
        Ok(())
    }

    /// No more comes from below. What is kept must be delivered before
    /// [`end_reading`](Flow::end_reading), now or later.
    fn read_ended(&mut self, flow: &mut Flow) -> anyhow::Result<()> {
        flow.end_reading();
        Ok(())
    }

    /// Bytes were written above. What was not [sent](Flow::send) or kept is gone.
    fn written(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        flow.send(data);
        Ok(())
    }

    /// No more will be written above. What is kept must be sent before
    /// [`end_writing`](Flow::end_writing), now or later; the connection is not closed earlier.
    /// Until then it is told what comes from below, even when the connection is being closed and
    /// nothing is delivered any more: a layer may wait for an answer of its peer. How long it
    /// does is for the layer to bound.
    fn write_ended(&mut self, flow: &mut Flow) -> anyhow::Result<()> {
        flow.end_writing();
        Ok(())
    }

    /// [`wake_layers`](Transport::wake_layers) was called: the time to let go of what was kept.
    fn woken(&mut self, flow: &mut Flow) -> anyhow::Result<()> {
        let _ = flow;
        Ok(())
    }

    /// The connection ended: called once, and last, before the protocol is told.
    fn lost(&mut self, reason: &ConnectionLost) {
        let _ = reason;
    }
}

/// What a layer passes on, up and down; see [`StreamLayer`].
#[derive(Debug, Default)]
pub struct Flow {
    up: Vec<u8>,
    down: Vec<u8>,
    up_end: bool,
    down_end: bool,
}

impl Flow {
    /// Passes bytes up, to the next layer or the protocol.
    pub fn deliver(&mut self, data: &[u8]) {
        self.up.extend_from_slice(data);
    }

    /// Passes bytes down, to the next layer or the socket.
    pub fn send(&mut self, data: &[u8]) {
        self.down.extend_from_slice(data);
    }

    /// Nothing more will be delivered.
    pub fn end_reading(&mut self) {
        self.up_end = true;
    }

    /// Nothing more will be sent: what is sent after this is dropped.
    pub fn end_writing(&mut self) {
        self.down_end = true;
    }
}

/// What enters the stack, and at which layer.
enum Input {
    Attached(usize),
    /// For the layers below this number: those above it are not attached.
    Woken(usize),
    Received(usize, Vec<u8>),
    ReadEnded(usize),
    /// For the layer below this number; 0 is the socket.
    Written(usize, Vec<u8>),
    WriteEnded(usize),
    /// All that was written before is with the system.
    Mark(usize, Completion),
}

impl Input {
    fn into_completion(self) -> Option<Completion> {
        match self {
            Self::Mark(_, completion) => Some(completion),
            _ => None,
        }
    }
}

/// The layers of a connection.
#[derive(Default)]
pub(crate) struct Stack {
    /// `None` while they are called.
    layers: Option<Vec<Box<dyn StreamLayer>>>,
    /// Pushed, and not yet attached.
    pushed: Vec<Box<dyn StreamLayer>>,
    /// How many layers there are with those.
    height: usize,
    inputs: VecDeque<Input>,
    /// Bytes written that have not entered the stack.
    pub(crate) pending: usize,
    /// The loop will call `run`.
    noted: bool,
    /// Came out at the top.
    up: Vec<u8>,
    up_end: bool,
    /// The socket's end was read.
    pub(crate) eof: bool,
    end_asked: bool,
    /// The layers will send nothing more.
    pub(super) down_end: bool,
}

impl Transport {
    /// Puts a layer between the connection and its protocol, above those pushed before. What was
    /// written before does not pass it; it is attached from the loop.
    ///
    /// On a connection with layers [`try_write`](Self::try_write) would block always.
    ///
    /// # Errors
    /// [`Closed`]: the layer is dropped.
    pub fn push_layer(&self, layer: impl StreamLayer + 'static) -> Result<(), Closed> {
        let mut layer: Option<Box<dyn StreamLayer>> = Some(Box::new(layer));
        let pushed = self.with(|connection, agenda| {
            if connection.phase != Phase::Open {
                return Err(Closed);
            }
            let stack = connection.make_stack();
            stack.layers.get_or_insert_default();
            stack.pushed.extend(layer.take());
            stack.inputs.push_back(Input::Attached(stack.height));
            stack.height += 1;
            connection.note_layers(agenda);
            Ok(())
        });
        drop(layer);
        pushed.unwrap_or(Err(Closed))
    }

    /// Has [`StreamLayer::woken`] called on every layer, from the loop: what a layer's timer does.
    pub fn wake_layers(&self) {
        self.with(|connection, agenda| {
            if let Some(stack) = connection.stack_mut() {
                stack.inputs.push_back(Input::Woken(stack.height));
                connection.note_layers(agenda);
            }
        });
    }
}

impl Connection {
    fn note_layers(&mut self, agenda: &mut Agenda) {
        if let Some(stack) = self.stack_mut()
            && !std::mem::replace(&mut stack.noted, true)
        {
            agenda.notices.push_back(StreamNotice::Layers(self.key).into());
        }
    }

    /// Gives what was written to the layers; false if there are none.
    pub(crate) fn write_to_layers(
        &mut self,
        data: Vec<u8>,
        completion: &mut Option<Completion>,
        agenda: &mut Agenda,
    ) -> bool {
        let Some(stack) = self.stack_mut() else { return false };
        let len = data.len();
        stack.pending += len;
        match stack.inputs.back_mut() {
            Some(Input::Written(height, last)) if *height == stack.height => last.extend(data),
            _ => stack.inputs.push_back(Input::Written(stack.height, data)),
        }
        if let Some(completion) = completion.take() {
            stack.inputs.push_back(Input::Mark(len, completion));
        }
        self.note_layers(agenda);
        true
    }

    /// Whether the way out may be shut, as far as layers are concerned; asks them to end.
    pub(crate) fn layers_have_ended(&mut self, agenda: &mut Agenda) -> bool {
        match self.stack_mut() {
            Some(stack) if !stack.down_end => {
                if !std::mem::replace(&mut stack.end_asked, true) {
                    stack.inputs.push_back(Input::WriteEnded(stack.height));
                    self.note_layers(agenda);
                }
                false
            }
            _ => true,
        }
    }
}

impl Stack {
    /// The completions of what never left, and the layers.
    pub(crate) fn dissolve(self) -> (Vec<Completion>, Vec<Box<dyn StreamLayer>>) {
        let completions = self.inputs.into_iter().filter_map(Input::into_completion);
        let mut layers = self.layers.unwrap_or_default();
        layers.extend(self.pushed);
        (completions.collect(), layers)
    }
}

/// What came out of the stack.
#[derive(Default)]
struct Output {
    up: Vec<u8>,
    up_end: bool,
    down: Vec<u8>,
    down_end: bool,
    /// Completions, and how many bytes of `down` come before each.
    marks: Vec<(usize, usize, Completion)>,
    /// Completions of what was written after the end of writing.
    unsent: Vec<Completion>,
}

/// Reads for a connection with layers, and takes what came through them.
pub(crate) fn service(inner: &Rc<Inner>, key: Key, ready: Ready) {
    let outcome = {
        let core = &mut *inner.core.borrow_mut();
        let Some(connection) = core.streams.connections.get_mut(key) else { return };
        let mut buffer = core.streams.buffer.take().unwrap_or_else(delivery::buffer);
        let outcome = read(connection, &mut buffer, ready, &mut core.agenda);
        core.streams.buffer = Some(buffer);
        outcome
    };
    run(inner, key);
    // What came before an end has been delivered by now.
    {
        let core = &mut *inner.core.borrow_mut();
        let Some(connection) = core.streams.connections.get_mut(key) else { return };
        match outcome {
            Ok(true) => connection.read_dry(&mut core.agenda),
            Ok(false) => {}
            Err(error) => connection.end(lost(error), &mut core.agenda),
        }
    }
    delivery::look_after(inner, key, ready);
}

/// Tells whether there is nothing left to read.
fn read(
    connection: &mut Connection,
    buffer: &mut [u8],
    ready: Ready,
    agenda: &mut Agenda,
) -> io::Result<bool> {
    let mut budget = BUFFER_LEN;
    while connection.feeds_layers() {
        if budget == 0 {
            connection.make_ready(Ready { error: ready.error, ..Ready::DRAIN }, agenda);
            return Ok(false);
        }
        let room = budget.min(buffer.len());
        let result = connection.socket.read(&mut buffer[..room]);
        let Some(stack) = connection.stack_mut() else { return Ok(false) };
        match result {
            Ok(0) => {
                stack.eof = true;
                stack.inputs.push_back(Input::ReadEnded(0));
            }
            Ok(len) => {
                stack.inputs.push_back(Input::Received(0, buffer[..len].to_vec()));
                connection.count_read(len);
                budget -= len;
                if len < room && !ready.drain && connection.trusts_short_reads() {
                    return Ok(false);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(connection.stack().is_some_and(|stack| stack.eof))
}

/// Takes what waits through the layers, and tells the protocol what came out at the top.
pub(crate) fn run(inner: &Rc<Inner>, key: Key) {
    let transport = Transport::new(inner, key);
    // Once: what the layers themselves ask for is another notice, in the next turn.
    if let Some((mut layers, mut inputs, down_end)) = take(inner, key) {
        let mut output = Output { down_end, ..Output::default() };
        let outcome = guarded(|| {
            while let Some(input) = inputs.pop_front() {
                climb(&mut layers, input, &transport, &mut output)?;
            }
            Ok(())
        });
        let left = std::mem::take(&mut output.unsent).into_iter();
        // With what a failing layer left over.
        let unsent = left.chain(inputs.into_iter().filter_map(Input::into_completion));
        let homeless = put_back(inner, key, layers, output, outcome.is_err());
        inner.discard("closed connection", "drop of a stream layer", homeless);
        let cancelled = unsent.map(|done| Notice::Written(done, Err(WriteError::Cancelled)));
        inner.core.borrow_mut().agenda.notices.extend(cancelled);
        if let Err(failure) = outcome {
            closing::report(inner, key, "stream layer", failure);
        }
    }
    deliver(inner, key);
}

type Layers = Vec<Box<dyn StreamLayer>>;

fn take(inner: &Inner, key: Key) -> Option<(Layers, VecDeque<Input>, bool)> {
    let core = &mut *inner.core.borrow_mut();
    let connection = core.streams.connections.get_mut(key)?;
    let open = connection.phase == Phase::Open;
    let stack = connection.stack_mut()?;
    stack.noted = false;
    if stack.inputs.is_empty() || !open {
        return None;
    }
    let mut layers = stack.layers.take()?;
    layers.append(&mut stack.pushed);
    stack.pending = 0;
    Some((layers, std::mem::take(&mut stack.inputs), stack.down_end))
}

/// Takes one input through the stack, with all that follows from it.
fn climb(
    layers: &mut [Box<dyn StreamLayer>],
    input: Input,
    transport: &Transport,
    output: &mut Output,
) -> anyhow::Result<()> {
    let mut work = VecDeque::from([input]);
    let mut outcome = Ok(());
    while let Some(input) = work.pop_front() {
        let mut flow = Flow::default();
        let (at, told) = match input {
            Input::Woken(height) => {
                for (at, layer) in layers.iter_mut().enumerate().take(height) {
                    let mut flow = Flow::default();
                    let told = layer.woken(&mut flow);
                    spread(at, flow, told, &mut work, &mut outcome);
                    if outcome.is_err() {
                        break;
                    }
                }
                continue;
            }
            Input::Mark(_, completion) if output.down_end => {
                output.unsent.push(completion);
                continue;
            }
            Input::Mark(len, completion) => {
                output.marks.push((output.down.len(), len, completion));
                continue;
            }
            Input::Received(at, data) if at == layers.len() => {
                output.up.extend(data);
                continue;
            }
            Input::ReadEnded(at) if at == layers.len() => {
                output.up_end = true;
                continue;
            }
            Input::Written(0, data) => {
                if !output.down_end {
                    output.down.extend(data);
                }
                continue;
            }
            Input::WriteEnded(0) => {
                output.down_end = true;
                continue;
            }
            Input::Attached(at) => (at, layers[at].attached(transport, &mut flow)),
            Input::Received(at, data) => (at, layers[at].received(&data, &mut flow)),
            Input::ReadEnded(at) => (at, layers[at].read_ended(&mut flow)),
            Input::Written(above, data) => (above - 1, layers[above - 1].written(&data, &mut flow)),
            Input::WriteEnded(above) => (above - 1, layers[above - 1].write_ended(&mut flow)),
        };
        spread(at, flow, told, &mut work, &mut outcome);
    }
    outcome
}

/// What a layer passed on is the input of its neighbours; of one that failed only what it sent, and
/// what is below it already: those layers have not failed.
fn spread(
    at: usize,
    mut flow: Flow,
    told: anyhow::Result<()>,
    work: &mut VecDeque<Input>,
    outcome: &mut anyhow::Result<()>,
) {
    if let Err(failure) = told
        && outcome.is_ok()
    {
        *outcome = Err(failure);
        work.retain(|input| matches!(input, Input::Written(above, _) if *above <= at));
    }
    if outcome.is_err() {
        flow = Flow { down: flow.down, ..Flow::default() };
    }
    if !flow.down.is_empty() {
        work.push_back(Input::Written(at, flow.down));
    }
    if flow.down_end {
        work.push_back(Input::WriteEnded(at));
    }
    if !flow.up.is_empty() {
        work.push_back(Input::Received(at + 1, flow.up));
    }
    if flow.up_end {
        work.push_back(Input::ReadEnded(at + 1));
    }
}

/// The layers return to their connection, and what came out at the bottom is sent. Returns what
/// nobody wants any more, to be dropped with nothing borrowed.
fn put_back(
    inner: &Inner,
    key: Key,
    layers: Layers,
    output: Output,
    failed: bool,
) -> Option<(Layers, Output)> {
    let core = &mut *inner.core.borrow_mut();
    let Some(connection) = core.streams.connections.get_mut(key) else {
        return Some((layers, output));
    };
    let discards = connection.disconnecting;
    let Some(stack) = connection.stack_mut() else { return Some((layers, output)) };
    stack.layers = Some(layers);
    // A layer that failed cannot be asked to end.
    let down_end = output.down_end || failed;
    let has_ended = !std::mem::replace(&mut stack.down_end, down_end) && down_end;
    stack.up_end |= output.up_end;
    let agenda = &mut core.agenda;
    if !discards {
        stack.up.extend(output.up);
    } else {
        connection.rare_stats().bytes_discarded += output.up.len() as u64;
        if has_ended {
            // From here on what arrives is discarded, and what has arrived is no news.
            connection.make_ready(Ready::DRAIN, agenda);
        }
    }
    let mut from = 0;
    for (end, len, completion) in output.marks {
        connection.queue.push(&output.down[from..end], &mut agenda.streams.spares);
        connection.queue.mark(len, completion, &mut agenda.streams.spares);
        from = end;
    }
    connection.queue.push(&output.down[from..], &mut agenda.streams.spares);
    connection.tell_written(agenda);
    connection.settle(agenda);
    None
}

/// Tells the protocol what came out at the top.
fn deliver(inner: &Rc<Inner>, key: Key) {
    loop {
        let data = {
            let core = &mut *inner.core.borrow_mut();
            let Some(connection) = core.streams.connections.get_mut(key) else { return };
            let wanted = connection.phase == Phase::Open
                && !connection.paused
                && !connection.disconnecting
                && !connection.read_closed
                && connection.protocol.is_some();
            let Some(stack) = connection.stack_mut() else { return };
            if !wanted || (stack.up.is_empty() && !stack.up_end) {
                return;
            }
            let data = std::mem::take(&mut stack.up);
            connection.read_closed = data.is_empty();
            if data.is_empty() && connection.has_write_error() {
                // A write has met the reset already, as it is without layers: no end in order.
                return connection.read_dry(&mut core.agenda);
            }
            data
        };
        if data.is_empty() {
            delivery::call(inner, key, "read_connection_lost", |protocol, transport| {
                protocol.read_connection_lost(transport)
            });
        } else {
            delivery::call(inner, key, "data_received", |protocol, transport| {
                protocol.data_received(transport, &data)
            });
        }
    }
}
