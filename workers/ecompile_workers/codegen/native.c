// The one extension module: calls generated functions with as little between as CPython allows.
// Limited API (3.11), so one build serves every later Python.
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>

typedef int (*eco_run_t)(const float *, float *, int64_t, void *, uint32_t *);

typedef struct {
  PyObject_HEAD
  eco_run_t run;
  int64_t inputs, outputs, max_rows, release_rows;
  size_t scratch_bytes;
} Module;

// One buffer per thread, grown to the largest module used on it: no lock, no allocation per call.
static _Thread_local void *scratch;
static _Thread_local size_t scratch_size;

static void *get_scratch(size_t bytes) {
  if (bytes > scratch_size) {
    free(scratch);
    scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
    scratch_size = scratch ? bytes : 0;
  }
  return scratch;
}

static int64_t rows_of(Module *self, Py_buffer *x, Py_buffer *y) {
  const int64_t row = self->inputs * 4, out = self->outputs * 4;
  const int64_t rows = x->len / row;
  if (rows < 1 || rows * row != x->len || y->len != rows * out) {
    PyErr_Format(PyExc_ValueError, "x has %zd bytes and y %zd: rows of %lld and %lld bytes are wanted", x->len, y->len,
                 (long long)row, (long long)out);
    return -1;
  }
  return rows;
}

// run(x, y) -> int: 0, or the reason of the first chunk of rows that was refused; y is then not to be used.
static PyObject *module_run(PyObject *object, PyObject *const *arguments, Py_ssize_t count) {
  Module *self = (Module *)object;
  Py_buffer x, y;
  if (count != 2) {
    PyErr_SetString(PyExc_TypeError, "run(x, y) takes two float32 buffers");
    return NULL;
  }
  if (PyObject_GetBuffer(arguments[0], &x, PyBUF_C_CONTIGUOUS)) return NULL;
  if (PyObject_GetBuffer(arguments[1], &y, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) {
    PyBuffer_Release(&x);
    return NULL;
  }
  uint32_t reason = 0;
  int failed = 0;
  const int64_t rows = rows_of(self, &x, &y);
  void *space = rows > 0 ? get_scratch(self->scratch_bytes) : NULL;
  if (rows > 0 && !space) PyErr_NoMemory();
  if (rows < 0 || !space) {
    failed = 1;
  } else {
    const float *in = x.buf;
    float *out = y.buf;
    PyThreadState *state = rows >= self->release_rows ? PyEval_SaveThread() : NULL;
    for (int64_t r = 0; r < rows && !reason; r += self->max_rows) {
      const int64_t n = rows - r < self->max_rows ? rows - r : self->max_rows;
      self->run(in + r * self->inputs, out + r * self->outputs, n, space, &reason);
    }
    if (state) PyEval_RestoreThread(state);
  }
  PyBuffer_Release(&x);
  PyBuffer_Release(&y);
  return failed ? NULL : PyLong_FromLong((long)reason);
}

// Module(address, inputs, outputs, max_rows, scratch_bytes, release_rows)
static PyObject *module_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  unsigned long long address, scratch_bytes;
  long long inputs, outputs, max_rows, release_rows;
  if (keywords && PyDict_Size(keywords)) {
    PyErr_SetString(PyExc_TypeError, "Module takes positional arguments only");
    return NULL;
  }
  if (!PyArg_ParseTuple(arguments, "KLLLKL", &address, &inputs, &outputs, &max_rows, &scratch_bytes, &release_rows))
    return NULL;
  if (!address || inputs < 1 || outputs < 1 || max_rows < 1 || scratch_bytes > (1ull << 32)) {
    PyErr_SetString(PyExc_ValueError, "Module: sizes out of range");
    return NULL;
  }
  allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  Module *self = (Module *)allocate(type, 0);
  if (!self) return NULL;
  self->run = (eco_run_t)(uintptr_t)address;
  self->inputs = inputs;
  self->outputs = outputs;
  self->max_rows = max_rows;
  self->release_rows = release_rows;
  self->scratch_bytes = scratch_bytes;
  return (PyObject *)self;
}

static void module_dealloc(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
  release(object);
  Py_DECREF(type);
}

static PyMethodDef module_methods[] = {
    {"run", (PyCFunction)(void (*)(void))module_run, METH_FASTCALL, "run(x, y) -> reason"},
    {NULL, NULL, 0, NULL}};
static PyType_Slot module_slots[] = {{Py_tp_new, module_new},
                                     {Py_tp_dealloc, module_dealloc},
                                     {Py_tp_methods, module_methods},
                                     {Py_tp_doc, "A loaded compiled module."},
                                     {0, NULL}};
static PyType_Spec module_spec = {"ecompile_workers.codegen._native.Module", sizeof(Module), 0, Py_TPFLAGS_DEFAULT,
                                  module_slots};

// A packed reference (serving/policy.py): features, rank, width, rest; then precisions[width], mean[features],
// inverse scale[features], directions[features][width], all float32; width is the rank rounded up to WIDTH.
enum { WIDTH = 8, MOST_WIDTH = 64, HEAD = 4 };

static float score_row(const float *reference, const float *x, int64_t features, int64_t width) {
  const float *precisions = reference + HEAD, *mean = precisions + width, *inverse = mean + features;
  const float *directions = inverse + features;
  float along[MOST_WIDTH] = {0}, total = 0, known = 0, found = 0;
  for (int64_t i = 0; i < features; i++) {
    const float d = (x[i] - mean[i]) * inverse[i], *u = directions + i * width;
    total += d * d;
    for (int64_t k = 0; k < width; k += WIDTH)
      for (int j = 0; j < WIDTH; j++) along[k + j] += d * u[k + j];
  }
  for (int64_t k = 0; k < width; k++) {
    known += along[k] * along[k];
    found += precisions[k] * along[k] * along[k];
  }
  return found + reference[3] * (total > known ? total - known : 0);
}

// score(reference, x) -> float: the largest squared Mahalanobis distance of the rows of x; infinite for a row that is
// not finite.
static PyObject *score(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
  Py_buffer r, x;
  if (count != 2) {
    PyErr_SetString(PyExc_TypeError, "score(reference, x) takes two float32 buffers");
    return NULL;
  }
  if (PyObject_GetBuffer(arguments[0], &r, PyBUF_C_CONTIGUOUS)) return NULL;
  if (PyObject_GetBuffer(arguments[1], &x, PyBUF_C_CONTIGUOUS)) {
    PyBuffer_Release(&r);
    return NULL;
  }
  const float *reference = r.buf;
  double most = 0;
  const int64_t head = r.len >= HEAD * 4;
  const int64_t features = head ? (int64_t)reference[0] : 0, width = head ? (int64_t)reference[2] : 0;
  const int good = features > 0 && width > 0 && width <= MOST_WIDTH && width % WIDTH == 0 &&
                   r.len == 4 * (HEAD + width + features * (2 + width)) && x.len > 0 && x.len % (features * 4) == 0;
  if (good) {
    const int64_t rows = x.len / 4 / features;
    for (int64_t i = 0; i < rows; i++) {
      const float found = score_row(reference, (const float *)x.buf + i * features, features, width);
      if (!(found - found == 0)) most = Py_HUGE_VAL;
      else if (found > most) most = found;
    }
  } else {
    PyErr_Format(PyExc_ValueError, "score: %zd bytes of rows do not fit a reference of %zd bytes", x.len, r.len);
  }
  PyBuffer_Release(&r);
  PyBuffer_Release(&x);
  return good ? PyFloat_FromDouble(most) : NULL;
}

// all_finite(values) -> bool: whether no float32 in the buffer is infinite or NaN (its exponent is not all ones).
static PyObject *all_finite(PyObject *native, PyObject *values) {
  Py_buffer view;
  if (PyObject_GetBuffer(values, &view, PyBUF_C_CONTIGUOUS)) return NULL;
  if (view.len % 4) {
    PyErr_Format(PyExc_ValueError, "%zd bytes are not float32 values", view.len);
    PyBuffer_Release(&view);
    return NULL;
  }
  const uint32_t *bits = view.buf;
  uint32_t bad = 0;
  for (Py_ssize_t i = 0; i < view.len / 4; i++) bad |= (bits[i] & 0x7f800000u) == 0x7f800000u;
  PyBuffer_Release(&view);
  return PyBool_FromLong(!bad);
}

// fence(): what was written before is seen by other processes before what is written after.
static PyObject *fence(PyObject *native, PyObject *nothing) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"fence", fence, METH_NOARGS, "orders accesses to memory shared with another process"},
    {"all_finite", all_finite, METH_O, "all_finite(float32 buffer) -> bool"},
    {"score", (PyCFunction)(void (*)(void))score, METH_FASTCALL, "score(reference, x) -> largest distance of the rows"},
    {NULL, NULL, 0, NULL}};

static int execute(PyObject *native) {
  PyObject *type = PyType_FromSpec(&module_spec);
  if (!type) return -1;
  const int failed = PyModule_AddObjectRef(native, "Module", type);
  Py_DECREF(type);
  return failed;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "Calls generated code.", 0, functions, slots,
                                        NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
