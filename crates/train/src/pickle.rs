//! Reads the weights out of a file in torch's legacy format: a few pickles, then the raw numbers. A pickle is a program
//! for a small stack machine and can do anything in Python; this reader knows only what a dictionary of plain tensors
//! needs, and refuses every other instruction, name and type by name. No byte of a file, hostile or torn, makes it
//! panic or take more memory than the file is long by a small factor.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// A dense tensor, row major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f32>,
}

/// Why a file is not taken for a dictionary of plain tensors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// Not the format at all.
    #[error("not a file in torch's legacy format{hint}")]
    NotLegacy {
        /// What it is instead, when that is plain to see.
        hint: &'static str,
    },
    /// The file ends in the middle.
    #[error("the file ends too early, at byte {offset}")]
    Truncated {
        /// Where more was expected.
        offset: usize,
    },
    /// An instruction that plain tensors do not need.
    #[error("pickle instruction 0x{code:02x} at byte {offset} is not allowed")]
    Opcode {
        /// The instruction.
        code: u8,
        /// Where it stands.
        offset: usize,
    },
    /// A Python name (class or function) that plain tensors do not need.
    #[error("pickled object `{0}` is not allowed: only plain tensors are")]
    Global(String),
    /// The instructions do not add up to a dictionary of tensors.
    #[error("malformed pickle at byte {offset}: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where it was noticed.
        offset: usize,
    },
    /// A tensor or its storage is not usable.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// Its name in the dictionary, or its storage's key.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// A pickle of the number by which torch knows its legacy files, protocol 2.
const MAGIC_PICKLE: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const FORMAT_VERSION: i64 = 1001;
/// Real files nest four deep. A bound, because dropping a value walks down into it.
const DEPTH_MAX: u32 = 16;
/// A bound, because every tensor has a shape of its own while the file may say it once for all.
const DIMENSIONS_MAX: usize = 8;

/// The floating-point tensors of a state dictionary by name. Integer tensors (batch counters) are checked and left out.
pub(crate) fn read_state_dict(file: &[u8]) -> Result<BTreeMap<String, Tensor>, PickleError> {
    if !file.starts_with(MAGIC_PICKLE) {
        let is_zip = file.starts_with(b"PK\x03\x04");
        return Err(PickleError::NotLegacy { hint: if is_zip { ": this is torch's newer zip format" } else { "" } });
    }
    let mut reader = Reader { file, offset: MAGIC_PICKLE.len() };
    if unpickle(&mut reader)? != Value::Int(FORMAT_VERSION) {
        return Err(reader.malformed("unknown format version"));
    }
    let system = unpickle(&mut reader)?;
    if system.get("little_endian") != Some(&Value::Bool(true)) {
        return Err(reader.malformed("not written on a little-endian machine"));
    }

    let state = unpickle(&mut reader)?;
    let views = named_views(state, &reader)?;
    let keys = unpickle(&mut reader)?;
    let storages = read_storages(&mut reader, &keys, &views)?;

    let mut tensors = BTreeMap::new();
    for (name, view) in views {
        let Some(storage) = storages.get(&view.storage.key) else {
            return Err(PickleError::Tensor { name, reason: "its storage is not in the file" });
        };
        let window = view.window(storage).map_err(|reason| PickleError::Tensor { name: name.clone(), reason })?;
        if view.storage.element == Element::Float {
            tensors.insert(name, Tensor { shape: view.shape.clone(), data: view.rows(window) });
        }
    }
    Ok(tensors)
}

fn named_views(state: Value, reader: &Reader<'_>) -> Result<BTreeMap<String, Rc<View>>, PickleError> {
    let Value::Dict { entries, .. } = state else {
        return Err(reader.malformed("the file holds something else than a dictionary"));
    };
    let mut views = BTreeMap::new();
    for (key, value) in entries {
        let Value::Text(name) = key else {
            return Err(reader.malformed("a tensor's name is no text"));
        };
        let Value::Tensor(view) = value else {
            return Err(PickleError::Tensor { name: name.to_string(), reason: "is something else than a tensor" });
        };
        if views.insert(name.to_string(), view).is_some() {
            return Err(PickleError::Tensor { name: name.to_string(), reason: "is there twice" });
        }
    }
    Ok(views)
}

/// The raw numbers behind the last pickle, in the order of `keys`. Each storage belongs to one tensor, so that the
/// tensors together are no larger than the file.
fn read_storages<'a>(
    reader: &mut Reader<'a>,
    keys: &Value,
    views: &BTreeMap<String, Rc<View>>,
) -> Result<HashMap<Rc<str>, &'a [u8]>, PickleError> {
    let mut expected = HashMap::new();
    for (name, view) in views {
        if expected.insert(Rc::clone(&view.storage.key), Rc::clone(&view.storage)).is_some() {
            return Err(PickleError::Tensor { name: name.clone(), reason: "shares its storage with another tensor" });
        }
    }

    let Value::List { items: keys, .. } = keys else {
        return Err(reader.malformed("the list of storages is missing"));
    };
    let mut storages = HashMap::new();
    for key in keys {
        let Value::Text(key) = key else {
            return Err(reader.malformed("a storage's key is no text"));
        };
        let refused = |reason| PickleError::Tensor { name: key.to_string(), reason };
        let storage = expected.get(key).ok_or_else(|| refused("a storage that no tensor uses"))?;
        if reader.u64()? != storage.elements as u64 {
            return Err(refused("the storage's length differs from what its tensor says"));
        }
        let size_bytes = storage.elements.checked_mul(storage.element.size_bytes());
        let bytes = reader.take(size_bytes.ok_or_else(|| refused("the storage is too large"))?)?;
        if storages.insert(Rc::clone(key), bytes).is_some() {
            return Err(refused("the storage is there twice"));
        }
    }
    if reader.offset != reader.file.len() {
        return Err(reader.malformed("there is more after the last storage"));
    }
    Ok(storages)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Float,
    Long,
}

impl Element {
    fn size_bytes(self) -> usize {
        match self {
            Self::Float => 4,
            Self::Long => 8,
        }
    }
}

#[derive(Debug, PartialEq)]
struct Storage {
    key: Rc<str>,
    element: Element,
    elements: usize,
}

/// A tensor as pickled: a window into a storage that comes later in the file.
#[derive(Debug, PartialEq)]
struct View {
    storage: Rc<Storage>,
    first_element: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl View {
    /// The tensor's part of its storage, in the storage's order. Every number in it belongs to the tensor just once, so
    /// that no tensor is larger than its storage.
    fn window<'a>(&self, storage: &'a [u8]) -> Result<&'a [u8], &'static str> {
        // Nothing is ever stepped over in a dimension of one, so torch leaves any stride there.
        let dims = self.strides.iter().zip(&self.shape).filter(|&(_, &size)| size != 1);
        let mut dims: Vec<(usize, usize)> = dims.map(|(&stride, &size)| (stride, size)).collect();
        dims.sort_unstable();
        let mut elements = 1_usize;
        for (stride, size) in dims {
            if stride != elements {
                return Err("has gaps or overlaps");
            }
            elements = elements.checked_mul(size).ok_or("is too large")?;
        }
        let size_bytes = self.storage.element.size_bytes();
        let first = self.first_element.checked_mul(size_bytes).ok_or("is too large")?;
        let length = elements.checked_mul(size_bytes).ok_or("is too large")?;
        let end = first.checked_add(length).ok_or("is too large")?;
        storage.get(first..end).ok_or("reaches beyond its storage")
    }

    /// The numbers of a window, row by row. Weights that came from TensorFlow lie there in another order.
    fn rows(&self, window: &[u8]) -> Vec<f32> {
        let (numbers, _) = window.as_chunks::<4>();
        if numbers.is_empty() {
            return Vec::new();
        }
        let mut places = vec![0];
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            places = places.into_iter().flat_map(|start| (0..size).map(move |index| start + index * stride)).collect();
        }
        places.into_iter().map(|place| f32::from_le_bytes(numbers[place])).collect()
    }
}

/// What the stack machine works on. Texts, tuples, storages and tensors are shared by the memo; dictionaries and lists
/// can change and are not.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    None,
    Bool(bool),
    Int(i64),
    Text(Rc<str>),
    Tuple { items: Rc<[Value]>, depth: u32 },
    List { items: Vec<Value>, depth: u32 },
    Dict { entries: Vec<(Value, Value)>, depth: u32 },
    Callable(Callable),
    StorageType(Element),
    Storage(Rc<Storage>),
    Tensor(Rc<View>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callable {
    OrderedDict,
    RebuildTensor,
}

impl Value {
    fn depth(&self) -> u32 {
        match self {
            Self::Tuple { depth, .. } | Self::List { depth, .. } | Self::Dict { depth, .. } => *depth,
            _ => 0,
        }
    }

    fn get(&self, wanted: &str) -> Option<&Value> {
        let Self::Dict { entries, .. } = self else { return None };
        let is_wanted = |key: &Value| matches!(key, Self::Text(text) if **text == *wanted);
        entries.iter().find(|(key, _)| is_wanted(key)).map(|(_, value)| value)
    }

    fn as_size(&self) -> Option<usize> {
        match self {
            Self::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }

    fn as_sizes(&self) -> Option<Vec<usize>> {
        match self {
            Self::Tuple { items, .. } if items.len() <= DIMENSIONS_MAX => items.iter().map(Self::as_size).collect(),
            _ => None,
        }
    }
}

struct Reader<'a> {
    file: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], PickleError> {
        let rest = self.file.get(self.offset..).unwrap_or_default();
        let taken = rest.get(..length).ok_or(PickleError::Truncated { offset: self.file.len() })?;
        self.offset += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let taken = self.take(N)?.first_chunk::<N>();
        taken.copied().ok_or(PickleError::Truncated { offset: self.file.len() })
    }

    fn u8(&mut self) -> Result<u8, PickleError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, PickleError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, PickleError> {
        self.array().map(u64::from_le_bytes)
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = self.file.get(self.offset..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == b'\n');
        let length = length.ok_or(PickleError::Truncated { offset: self.file.len() })?;
        let line = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(line)
    }

    fn malformed(&self, what: &'static str) -> PickleError {
        PickleError::Malformed { what, offset: self.offset }
    }
}

/// Runs one pickle to its end and returns what it leaves.
fn unpickle(reader: &mut Reader<'_>) -> Result<Value, PickleError> {
    let mut machine = Machine { reader, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    loop {
        let offset = machine.reader.offset;
        let code = machine.reader.u8()?;
        if code == b'.' {
            return machine.pop();
        }
        machine.step(code, offset)?;
    }
}

struct Machine<'r, 'a> {
    reader: &'r mut Reader<'a>,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    /// `None` stands for a dictionary or list, which may be remembered but not used twice.
    memo: HashMap<u32, Option<Value>>,
}

impl Machine<'_, '_> {
    fn step(&mut self, code: u8, offset: usize) -> Result<(), PickleError> {
        match code {
            0x80 => self.protocol()?,
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'K' => {
                let number = self.reader.u8()?;
                self.stack.push(Value::Int(number.into()));
            }
            b'M' => {
                let number = u16::from_le_bytes(self.reader.array()?);
                self.stack.push(Value::Int(number.into()));
            }
            b'J' => {
                let number = i32::from_le_bytes(self.reader.array()?);
                self.stack.push(Value::Int(number.into()));
            }
            b'X' => self.text()?,
            b'(' => self.marks.push(self.stack.len()),
            b')' => self.push_tuple(Vec::new())?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push_tuple(items)?;
            }
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(code - 0x84))?;
                self.push_tuple(items)?;
            }
            b']' => self.stack.push(Value::List { items: Vec::new(), depth: 1 }),
            b'a' => {
                let items = self.pop_many(1)?;
                self.append(items)?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b'}' => self.stack.push(Value::Dict { entries: Vec::new(), depth: 1 }),
            b's' => {
                let items = self.pop_many(2)?;
                self.set_items(items)?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(items)?;
            }
            b'q' => {
                let slot = self.reader.u8()?.into();
                self.remember(slot)?;
            }
            b'r' => {
                let slot = self.reader.u32()?;
                self.remember(slot)?;
            }
            b'h' => {
                let slot = self.reader.u8()?.into();
                self.recall(slot)?;
            }
            b'j' => {
                let slot = self.reader.u32()?;
                self.recall(slot)?;
            }
            b'c' => self.global()?,
            b'Q' => self.persistent_id()?,
            b'R' => self.call()?,
            b'b' => self.build()?,
            _ => return Err(PickleError::Opcode { code, offset }),
        }
        Ok(())
    }

    fn protocol(&mut self) -> Result<(), PickleError> {
        match self.reader.u8()? {
            2 => Ok(()),
            _ => Err(self.reader.malformed("pickle protocol is not 2")),
        }
    }

    fn text(&mut self) -> Result<(), PickleError> {
        // A file cannot ask for more than it brings: `take` looks before anything is copied.
        let length = self.reader.u32()? as usize;
        let bytes = self.reader.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.reader.malformed("a text is not UTF-8"))?;
        self.stack.push(Value::Text(text.into()));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, PickleError> {
        self.stack.pop().ok_or_else(|| self.reader.malformed("the stack is empty"))
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>, PickleError> {
        let height = self.stack.len().checked_sub(count);
        let height = height.ok_or_else(|| self.reader.malformed("the stack is empty"))?;
        Ok(self.stack.split_off(height))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, PickleError> {
        match self.marks.pop() {
            Some(height) if height <= self.stack.len() => Ok(self.stack.split_off(height)),
            _ => Err(self.reader.malformed("no mark on the stack")),
        }
    }

    fn push_tuple(&mut self, items: Vec<Value>) -> Result<(), PickleError> {
        let depth = self.depth_around(1, &items)?;
        self.stack.push(Value::Tuple { items: items.into(), depth });
        Ok(())
    }

    fn append(&mut self, new: Vec<Value>) -> Result<(), PickleError> {
        let new_depth = self.depth_around(1, &new)?;
        let Some(Value::List { items, depth }) = self.stack.last_mut() else {
            return Err(self.reader.malformed("appends to something else than a list"));
        };
        items.extend(new);
        *depth = new_depth.max(*depth);
        Ok(())
    }

    fn set_items(&mut self, new: Vec<Value>) -> Result<(), PickleError> {
        if !new.len().is_multiple_of(2) {
            return Err(self.reader.malformed("a key has no value"));
        }
        let new_depth = self.depth_around(1, &new)?;
        let Some(Value::Dict { entries, depth }) = self.stack.last_mut() else {
            return Err(self.reader.malformed("sets an item of something else than a dictionary"));
        };
        let mut new = new.into_iter();
        while let (Some(key), Some(value)) = (new.next(), new.next()) {
            entries.push((key, value));
        }
        *depth = new_depth.max(*depth);
        Ok(())
    }

    fn depth_around(&self, own: u32, items: &[Value]) -> Result<u32, PickleError> {
        let depth = own + items.iter().map(Value::depth).max().unwrap_or(0);
        if depth > DEPTH_MAX {
            return Err(self.reader.malformed("nested too deep"));
        }
        Ok(depth)
    }

    fn remember(&mut self, slot: u32) -> Result<(), PickleError> {
        let top = self.stack.last().ok_or_else(|| self.reader.malformed("the stack is empty"))?;
        let remembered = match top {
            Value::Dict { .. } | Value::List { .. } => None,
            shareable => Some(shareable.clone()),
        };
        self.memo.insert(slot, remembered);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), PickleError> {
        match self.memo.get(&slot) {
            Some(Some(value)) => {
                self.stack.push(value.clone());
                Ok(())
            }
            Some(None) => Err(self.reader.malformed("a dictionary or list is used twice")),
            None => Err(self.reader.malformed("recalls what was never stored")),
        }
    }

    fn global(&mut self) -> Result<(), PickleError> {
        let module = self.reader.line()?;
        let name = self.reader.line()?;
        let value = match (module.as_str(), name.as_str()) {
            ("collections", "OrderedDict") => Value::Callable(Callable::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Value::Callable(Callable::RebuildTensor),
            ("torch", "FloatStorage") => Value::StorageType(Element::Float),
            ("torch", "LongStorage") => Value::StorageType(Element::Long),
            _ => return Err(PickleError::Global(format!("{module}.{name}"))),
        };
        self.stack.push(value);
        Ok(())
    }

    /// `('storage', type, key, 'cpu', elements, None)`.
    fn persistent_id(&mut self) -> Result<(), PickleError> {
        let id = self.pop()?;
        let storage = storage_of(&id).ok_or_else(|| self.reader.malformed("not the id of a plain storage"))?;
        self.stack.push(Value::Storage(Rc::new(storage)));
        Ok(())
    }

    fn call(&mut self) -> Result<(), PickleError> {
        let arguments = self.pop()?;
        let Value::Tuple { items: arguments, .. } = arguments else {
            return Err(self.reader.malformed("arguments are no tuple"));
        };
        let made = match self.pop()? {
            Value::Callable(Callable::OrderedDict) if arguments.is_empty() => {
                Some(Value::Dict { entries: Vec::new(), depth: 1 })
            }
            Value::Callable(Callable::RebuildTensor) => view_of(&arguments).map(|view| Value::Tensor(Rc::new(view))),
            _ => None,
        };
        self.stack.push(made.ok_or_else(|| self.reader.malformed("calls something with arguments it does not take"))?);
        Ok(())
    }

    /// Torch hangs module versions on the state dictionary. They say nothing about the numbers and are let go; any
    /// other state would be an object's.
    fn build(&mut self) -> Result<(), PickleError> {
        let state = self.pop()?;
        let is_metadata = matches!(&state, Value::Dict { entries, .. } if entries.len() == 1)
            && matches!(state.get("_metadata"), Some(Value::Dict { .. }));
        match self.stack.last() {
            Some(Value::Dict { .. }) if is_metadata => Ok(()),
            _ => Err(self.reader.malformed("sets the state of an object")),
        }
    }
}

fn storage_of(id: &Value) -> Option<Storage> {
    let Value::Tuple { items, .. } = id else { return None };
    let [Value::Text(kind), Value::StorageType(element), Value::Text(key), Value::Text(device), elements, Value::None] =
        &**items
    else {
        return None;
    };
    let is_plain = &**kind == "storage" && &**device == "cpu";
    is_plain.then_some(Storage { key: Rc::clone(key), element: *element, elements: elements.as_size()? })
}

/// Arguments: storage, first element, shape, strides, whether gradients are wanted, hooks (none).
fn view_of(arguments: &[Value]) -> Option<View> {
    let [Value::Storage(storage), first, shape, strides, Value::Bool(_), Value::Dict { entries: hooks, .. }] =
        arguments
    else {
        return None;
    };
    let (shape, strides) = (shape.as_sizes()?, strides.as_sizes()?);
    let is_plain = shape.len() == strides.len() && hooks.is_empty();
    is_plain.then_some(View { storage: Rc::clone(storage), first_element: first.as_size()?, shape, strides })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: &[u8] = b"\x80\x02}X\x0d\0\0\0little_endian\x88s.";

    fn text(value: &str) -> Vec<u8> {
        [b"X", &u32::try_from(value.len()).unwrap().to_le_bytes()[..], value.as_bytes()].concat()
    }

    fn header() -> Vec<u8> {
        [MAGIC_PICKLE, b"\x80\x02M\xe9\x03.", SYSTEM].concat()
    }

    /// A call of `_rebuild_tensor_v2` over the storage `key` of `elements` elements.
    fn tensor(storage_type: &str, key: &str, elements: u8, first: u8, shape: [u8; 2], strides: [u8; 2]) -> Vec<u8> {
        [
            &b"ctorch._utils\n_rebuild_tensor_v2\n(("[..],
            &text("storage"),
            format!("ctorch\n{storage_type}\n").as_bytes(),
            &text(key),
            &text("cpu"),
            &[b'K', elements, b'N', b't', b'Q', b'K', first],
            &[b'K', shape[0], b'K', shape[1], 0x86, b'K', strides[0], b'K', strides[1], 0x86],
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]
        .concat()
    }

    /// A file with the tensors `a` (floats) and `count` (integers), and torch's metadata.
    fn file_with(a: &[u8]) -> Vec<u8> {
        [
            &header(),
            &b"\x80\x02ccollections\nOrderedDict\n)Rq\x01("[..],
            &text("a"),
            a,
            &text("count"),
            &tensor("LongStorage", "2", 2, 0, [2, 1], [1, 1]),
            b"u}",
            &text("_metadata"),
            b"}sb.",
            b"\x80\x02](",
            &text("2"),
            &text("1"),
            b"e.",
            &2_u64.to_le_bytes(),
            &[0; 16],
            &5_u64.to_le_bytes(),
            &1.5_f32.to_le_bytes(),
            &(-2.0_f32).to_le_bytes(),
            &7.0_f32.to_le_bytes(),
            &8.0_f32.to_le_bytes(),
            &9.0_f32.to_le_bytes(),
        ]
        .concat()
    }

    fn floats(first: u8, shape: [u8; 2], strides: [u8; 2]) -> Vec<u8> {
        file_with(&tensor("FloatStorage", "1", 5, first, shape, strides))
    }

    fn valid() -> Vec<u8> {
        floats(1, [2, 2], [2, 1])
    }

    fn refusal(file: &[u8]) -> String {
        read_state_dict(file).unwrap_err().to_string()
    }

    #[test]
    fn a_window_into_a_storage_is_read_row_by_row() {
        let read = |file: &[u8]| read_state_dict(file).unwrap();
        let only_a = |shape: [usize; 2], data: &[f32]| {
            BTreeMap::from([("a".to_owned(), Tensor { shape: shape.to_vec(), data: data.to_vec() })])
        };
        assert_eq!(read(&valid()), only_a([2, 2], &[-2.0, 7.0, 8.0, 9.0]));
        assert_eq!(read(&floats(1, [2, 2], [1, 2])), only_a([2, 2], &[-2.0, 8.0, 7.0, 9.0]));
        assert_eq!(read(&floats(3, [2, 1], [1, 200])), only_a([2, 1], &[8.0, 9.0]));
    }

    #[test]
    fn anything_but_plain_tensors_is_refused_by_name() {
        let system_call = [&header()[..], b"\x80\x02cposix\nsystem\n"].concat();
        assert_eq!(refusal(&system_call), "pickled object `posix.system` is not allowed: only plain tensors are");
        assert_eq!(
            refusal(&file_with(&tensor("DoubleStorage", "1", 5, 1, [2, 2], [2, 1]))),
            "pickled object `torch.DoubleStorage` is not allowed: only plain tensors are"
        );
        let new_object = [&header()[..], b"\x80\x02)\x81"].concat();
        let offset = new_object.len() - 1;
        assert_eq!(refusal(&new_object), format!("pickle instruction 0x81 at byte {offset} is not allowed"));
        assert_eq!(refusal(&file_with(b"K\x05")), "tensor `a`: is something else than a tensor");
        assert!(refusal(&file_with(b"}K\x01K\x02s}K\x03K\x04sb")).contains("sets the state of an object"));
    }

    #[test]
    fn other_formats_are_told_apart() {
        assert_eq!(refusal(b"PK\x03\x04rest"), "not a file in torch's legacy format: this is torch's newer zip format");
        assert_eq!(refusal(b"hello"), "not a file in torch's legacy format");
    }

    #[test]
    fn a_tensor_must_lie_in_its_storage_without_gaps() {
        assert_eq!(refusal(&floats(2, [2, 2], [2, 1])), "tensor `a`: reaches beyond its storage");
        for strides in [[1, 1], [3, 1], [2, 2], [0, 0]] {
            assert_eq!(refusal(&floats(0, [2, 2], strides)), "tensor `a`: has gaps or overlaps");
        }
        assert_eq!(
            refusal(&file_with(&tensor("FloatStorage", "1", 9, 0, [2, 2], [2, 1]))),
            "tensor `1`: the storage's length differs from what its tensor says"
        );
        assert_eq!(
            refusal(&file_with(&tensor("LongStorage", "2", 2, 0, [2, 1], [1, 1]))),
            "tensor `count`: shares its storage with another tensor"
        );
    }

    #[test]
    fn a_torn_file_is_an_error_wherever_it_was_torn() {
        let file = valid();
        for length in 0..file.len() {
            assert!(read_state_dict(&file[..length]).is_err(), "{length} of {} bytes were taken", file.len());
        }
        let longer = [&file[..], b"!"].concat();
        assert!(refusal(&longer).contains("more after the last storage"));
    }

    #[test]
    fn a_text_longer_than_the_file_is_not_waited_for() {
        let file = [&header()[..], b"\x80\x02X\xff\xff\xff\xff"].concat();
        assert!(refusal(&file).contains("ends too early"));
    }

    #[test]
    fn a_tower_of_tuples_is_refused_before_it_can_topple_the_stack() {
        let file = [&header()[..], b"\x80\x02)", &[0x85; 1_000_000]].concat();
        assert!(refusal(&file).contains("nested too deep"));
    }

    #[test]
    fn changed_files_are_read_or_refused() {
        let metadata = file_with(&tensor("FloatStorage", "1", 5, 1, [2, 2], [1, 2]));
        let mut was_read = false;
        crate::fuzzing::fuzz("pickle", &[valid(), metadata, header()], |bytes| {
            was_read |= read_state_dict(bytes).is_ok();
        });
        assert!(was_read, "the first file is sound");
    }
}
