//! A small safe wrapper of the faiss C API (1.12, in faiss-sys 0.7): build an HNSW graph, search it with a filter.
//!
//! Own, because the `faiss` crate leaks its selectors, keeps a bitmap's pointer without its lifetime, and demands `&mut` to search.
//! faiss checks little (`FAISS_ASSERT` ends the process), so everything is validated before a call. A C++ exception comes back as a
//! return code and becomes [`Error::Faiss`].
#![allow(unsafe_code, reason = "this module is the only caller of the faiss C API; each block has its proof")]

use std::cell::Cell;
use std::ffi::{CStr, CString, c_int};
use std::ptr::{self, NonNull};

use faiss_sys as ffi;

use crate::bitmap::Bitmap;
use crate::error::Error;
use crate::segment::ROWS_MAX;
use crate::settings::HnswSettings;

// A filter's words are read by faiss as bytes, lowest first.
const _: () = assert!(cfg!(target_endian = "little"), "the faiss filter needs a little-endian target");

unsafe extern "C" {
    /// From libgomp, which faiss-sys links: the OpenMP threads that this OS thread may use.
    fn omp_set_num_threads(threads: c_int);
}

/// An HNSW index of `dim`-component rows under inner product. Immutable once built.
#[derive(Debug)]
pub(super) struct Graph {
    index: Owned<ffi::FaissIndex>,
    dim: usize,
    len: usize,
}

// SAFETY: the index is owned by this struct alone and has no thread affinity; faiss keeps thread-local state only for its last error.
unsafe impl Send for Graph {}
// SAFETY: after `build` nothing mutates the index. `search` is `const` in C++ and keeps its working set (visited table, heaps, distance
// computer) on its own stack and heap: IndexHNSW.cpp `hnsw_search`, HNSW.cpp `HNSW::search`. The one thing that concurrent searches share
// is the global counter block `hnsw_stats`, to which each adds at its end without a lock; a lost addition changes a statistic that neither
// faiss nor we read to decide anything. faiss documents concurrent CPU searches as supported.
unsafe impl Sync for Graph {}

impl Graph {
    /// `rows` is row-major with `dim` components each, at least one row.
    pub(super) fn build(settings: &HnswSettings, dim: usize, rows: &[f32]) -> Result<Self, Error> {
        use_one_thread();
        let len = rows.len() / dim.max(1);
        let (Ok(dim_c), 1..=ROWS_MAX) = (c_int::try_from(dim), len) else {
            return Err(Error::TooManyRows { rows: len, id_bytes: 0 });
        };
        let description = c_string(&format!("HNSW{},Flat", settings.m))?;
        let mut index = ptr::null_mut();
        // SAFETY: `index` is a valid place for a pointer; `description` is NUL-terminated and outlives the call, which copies it.
        let code = unsafe {
            ffi::faiss_index_factory(&mut index, dim_c, description.as_ptr(), ffi::FaissMetricType_METRIC_INNER_PRODUCT)
        };
        check("index_factory", code)?;
        // The destructor is virtual in C++ and this is the pointer the factory returned.
        let index = Owned::new("index_factory", index, ffi::faiss_Index_free)?;
        set_parameters(&index, settings)?;
        // SAFETY: `index` is live and not shared yet; `rows` holds at least `len * dim` floats, which faiss copies. `len` fits i64.
        check("add", unsafe { ffi::faiss_Index_add(index.as_ptr(), len as ffi::idx_t, rows.as_ptr()) })?;
        Ok(Self { index, dim, len })
    }

    /// Up to `count` (1..=len) allowed positions that score high, in no promised order. `query` has `dim` components and `allowed` covers
    /// all rows; anything else finds nothing.
    pub(super) fn search(&self, query: &[f32], count: usize, allowed: &Bitmap) -> Result<Vec<u32>, Error> {
        if query.len() != self.dim || allowed.len() != self.len || !(1..=self.len).contains(&count) {
            return Ok(Vec::new());
        }
        use_one_thread();
        let filter = if allowed.count() == self.len { None } else { Some(Filter::new(allowed)?) };
        let parameters = filter.as_ref().map_or(ptr::null(), |filter| filter.parameters.as_ptr().cast_const());
        let mut scores = vec![0.0f32; count];
        let mut labels: Vec<ffi::idx_t> = vec![-1; count];
        // SAFETY: one query of `dim` floats is read (checked above); `count` floats and labels are written, which is what both buffers hold.
        // The index is live for `&self`. `parameters` is null (no filter: faiss tests for it) or live until `filter` drops below.
        let code = unsafe {
            ffi::faiss_Index_search_with_params(
                self.index.as_ptr(),
                1,
                query.as_ptr(),
                count as ffi::idx_t,
                parameters,
                scores.as_mut_ptr(),
                labels.as_mut_ptr(),
            )
        };
        drop(filter);
        check("search", code)?;
        // Missing results are padded with -1. The filter is applied once more: a forbidden row must not depend on foreign code.
        let found = labels.into_iter().filter_map(|label| u32::try_from(label).ok());
        Ok(found.filter(|&position| allowed.contains(position)).collect())
    }
}

/// A bitmap selector and the search parameters that point to it.
struct Filter<'a> {
    /// Declared first, so dropped first: faiss's parameters do not own their selector.
    parameters: Owned<ffi::FaissSearchParameters>,
    _selector: Owned<ffi::FaissIDSelector>,
    /// The selector points into these words.
    _words: &'a [u64],
}

impl<'a> Filter<'a> {
    fn new(allowed: &'a Bitmap) -> Result<Self, Error> {
        let words = allowed.words();
        let mut bitmap = ptr::null_mut();
        // SAFETY: the selector keeps the pointer, valid for `size_of_val(words)` bytes while `words` is borrowed, which `Filter` holds
        // for its whole life. faiss only reads it; u64 words may be read as bytes.
        let code = unsafe { ffi::faiss_IDSelectorBitmap_new(&mut bitmap, size_of_val(words), words.as_ptr().cast()) };
        check("IDSelectorBitmap_new", code)?;
        // The C API's handles are the C++ objects: a bitmap selector is an IDSelector by single inheritance with a virtual destructor.
        let selector =
            Owned::new("IDSelectorBitmap_new", bitmap.cast::<ffi::FaissIDSelector>(), ffi::faiss_IDSelector_free)?;
        let mut parameters = ptr::null_mut();
        // SAFETY: `parameters` is a valid place for a pointer; `selector` is live and outlives the parameters (field order above).
        let code = unsafe { ffi::faiss_SearchParameters_new(&mut parameters, selector.as_ptr()) };
        check("SearchParameters_new", code)?;
        let parameters = Owned::new("SearchParameters_new", parameters, ffi::faiss_SearchParameters_free)?;
        Ok(Self { parameters, _selector: selector, _words: words })
    }
}

/// A faiss object that is freed exactly once.
#[derive(Debug)]
struct Owned<T> {
    object: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// Takes ownership of what `call` made and `free` frees.
    fn new(call: &'static str, object: *mut T, free: unsafe extern "C" fn(*mut T)) -> Result<Self, Error> {
        let object =
            NonNull::new(object).ok_or_else(|| Error::Faiss { call, message: "no object was made".to_owned() })?;
        Ok(Self { object, free })
    }

    fn as_ptr(&self) -> *mut T {
        self.object.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the object was made by faiss for `free`, this is its only owner, and a drop runs once.
        unsafe { (self.free)(self.object.as_ptr()) }
    }
}

fn set_parameters(index: &Owned<ffi::FaissIndex>, settings: &HnswSettings) -> Result<(), Error> {
    let mut space = ptr::null_mut();
    // SAFETY: `space` is a valid place for a pointer.
    check("ParameterSpace_new", unsafe { ffi::faiss_ParameterSpace_new(&mut space) })?;
    let space = Owned::new("ParameterSpace_new", space, ffi::faiss_ParameterSpace_free)?;
    for (name, value) in [("efConstruction", settings.ef_construction), ("efSearch", settings.ef_search)] {
        let name = c_string(name)?;
        // SAFETY: space and index are live, the index is not shared yet, the name is NUL-terminated and copied.
        let code = unsafe {
            ffi::faiss_ParameterSpace_set_index_parameter(
                space.as_ptr(),
                index.as_ptr(),
                name.as_ptr(),
                f64::from(value),
            )
        };
        check("ParameterSpace_set_index_parameter", code)?;
    }
    Ok(())
}

/// OpenMP's thread count is per OS thread. One keeps a query on its own core, and a graph the same at every build.
fn use_one_thread() {
    thread_local!(static IS_SET: Cell<bool> = const { Cell::new(false) });
    if !IS_SET.replace(true) {
        // SAFETY: it sets a thread-local number of libgomp and has no preconditions.
        unsafe { omp_set_num_threads(1) };
    }
}

fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Faiss { call: "c_string", message: "a NUL byte in a name".to_owned() })
}

fn check(call: &'static str, code: c_int) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: null, or a NUL-terminated message owned by this thread's last exception; copied before any other faiss call.
    let message = unsafe {
        let text = ffi::faiss_get_last_error();
        if text.is_null() { None } else { Some(CStr::from_ptr(text).to_string_lossy().into_owned()) }
    };
    Err(Error::Faiss { call, message: message.unwrap_or_else(|| format!("code {code}")) })
}
