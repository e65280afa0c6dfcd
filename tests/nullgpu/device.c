// A CUDA device that computes nothing: launches, copies and waits are counted, its memory is the host's, streams can be captured into graphs.
// Preloaded, it answers in place of libcudart and cuBLAS what PyTorch asks of them; whatever is not here returns 0 (see standin.py).
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// ---- what is counted, in the order of `COUNTED` in standin.py
enum {LAUNCHES, REPLAYS, CAPTURED, SYNCS, ELSEWHERE, PINNED, PAGEABLE, FETCHED, MOVED, FILLED, ALLOCATED, KINDS};
static atomic_long counted[KINDS];
void standin_counts(long *to) { for (int k = 0; k < KINDS; k++) to[k] = counted[k]; }

static _Thread_local cudaError_t last;
static cudaError_t fail(cudaError_t e) { return last = e; }
cudaError_t cudaGetLastError(void) { cudaError_t e = last; last = 0; return e; }
cudaError_t cudaPeekAtLastError(void) { return last; }
const char *cudaGetErrorName(cudaError_t e) { return e == cudaErrorStreamCaptureUnsupported ? "cudaErrorStreamCaptureUnsupported" : "cudaError"; }
const char *cudaGetErrorString(cudaError_t e) { return e == cudaErrorStreamCaptureUnsupported ? "operation not permitted when stream is capturing" : "an error"; }

// ---- streams, events, and the graph that is being captured from them: one at a time
struct CUstream_st { int captured; } static main_stream;
struct CUevent_st { int captured; };
struct CUgraph_st { long kernels; } static *graph;
static cudaStream_t joined[64];
static int n_joined;

static cudaStream_t of(cudaStream_t s) { return s > (cudaStream_t)2 ? s : &main_stream; }      // 1 and 2 name the default stream too
static int capturing(cudaStream_t s) { return graph && of(s)->captured; }
static void join(cudaStream_t s) { if (!of(s)->captured && n_joined < 64) { of(s)->captured = 1; joined[n_joined++] = of(s); } }
static cudaError_t made(void **p) { return (*p = calloc(1, 64)) ? 0 : cudaErrorMemoryAllocation; }

cudaError_t cudaStreamCreate(cudaStream_t *s) { return made((void**)s); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned f) { return made((void**)s); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned f, int p) { return made((void**)s); }
cudaError_t cudaEventCreate(cudaEvent_t *e) { return made((void**)e); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f) { return made((void**)e); }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { e->captured = capturing(s); return 0; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned f) { return cudaEventRecord(e, s); }
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned f) { if (graph && e->captured) join(s); return 0; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) { *ms = 1; return 0; }

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode m) {
  if (graph) return fail(cudaErrorIllegalState);
  graph = calloc(1, sizeof *graph); join(s); return 0; }
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
  for (; n_joined; n_joined--) joined[n_joined-1]->captured = 0;
  *g = graph; graph = 0; return 0; }
cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *o) { *o = capturing(s) ? cudaStreamCaptureStatusActive : 0; return 0; }
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *o, unsigned long long *id, cudaGraph_t *g,
    const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges, size_t *n) {
  if (id) *id = 1;
  if (g) *g = graph;
  if (nodes) *nodes = 0, *n = 0;
  return cudaStreamIsCapturing(s, o); }
cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes, size_t *n) { *n = g->kernels; return 0; }
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *to, cudaGraph_t g, unsigned long long f) { return made((void**)to); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) { counted[REPLAYS]++; return 0; }

// ---- waiting: an error while a graph is captured, as on a device
static cudaError_t waited(int refused) {
  if (refused) return fail(cudaErrorStreamCaptureUnsupported);
  counted[gettid() == getpid() ? SYNCS : ELSEWHERE]++; return 0; }
cudaError_t cudaDeviceSynchronize(void) { return waited(graph != 0); }
cudaError_t cudaStreamSynchronize(cudaStream_t s) { return waited(capturing(s)); }
cudaError_t cudaEventSynchronize(cudaEvent_t e) { return waited(graph && e->captured); }

// ---- launches
static cudaError_t launched(cudaStream_t s) {
  if (capturing(s)) { graph->kernels++; counted[CAPTURED]++; } else counted[LAUNCHES]++;
  return 0; }
cudaError_t __cudaGetKernel(cudaKernel_t *k, const void *f) { *k = (cudaKernel_t)f; return 0; }
cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 g, dim3 b, void **a, size_t n, cudaStream_t s) { return launched(s); }
cudaError_t cudaLaunchKernel(const void *f, dim3 g, dim3 b, void **a, size_t n, cudaStream_t s) { return launched(s); }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **a) { return launched(c->stream); }
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *a) { f(a); return 0; }
cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t f, void *a, unsigned o) { f(s, 0, a); return 0; }

// ---- cuBLAS: its handles know their stream; products count as one launch each (standin.py names them)
struct handle { cudaStream_t stream; } static *newest;
int cublasCreate_v2(struct handle **h) { *h = newest = calloc(1, 64); return 0; }
int cublasSetStream_v2(struct handle *h, cudaStream_t s) { newest = h; h->stream = s; return 0; }
int standin_product(void) { return launched(newest ? newest->stream : 0); }
int cublasLtMatmulAlgoGetHeuristic(void *h, void *d, void *a, void *b, void *c, void *e, void *p, int n, void *to, int *found) {
  memset(to, 0, 96); *found = 1; return 0; }

// ---- memory: pages that nobody writes cost nothing, so a set of gigabytes may be 'resident'
enum { TOTAL_GIB = 139, REAL = 1<<20 };                 // only copies up to REAL bytes are made
static struct { char *from, *to; } pinned[4096];
static atomic_int n_pinned;
cudaError_t cudaMalloc(void **p, size_t n) {
  counted[ALLOCATED] += n;
  *p = mmap(0, n, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE, -1, 0);
  return *p == MAP_FAILED ? fail(cudaErrorMemoryAllocation) : 0; }
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned f) {
  if (posix_memalign(p, 4096, n)) return fail(cudaErrorMemoryAllocation);
  int k = n_pinned++ % 4096;
  pinned[k].from = *p; pinned[k].to = (char*)*p + n; return 0; }
static int is_pinned(const void *p) {
  for (int k = 0; k < n_pinned && k < 4096; k++) if ((char*)p >= pinned[k].from && (char*)p < pinned[k].to) return 1;
  return 0; }
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
  memset(a, 0, sizeof *a); a->type = is_pinned(p) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
  a->hostPointer = a->devicePointer = (void*)p; return 0; }
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) { *total = (size_t)TOTAL_GIB<<30; *free = *total - counted[ALLOCATED]; return 0; }

static cudaError_t copied(void *to, const void *from, size_t n, enum cudaMemcpyKind k, cudaStream_t s) {
  if (capturing(s)) { graph->kernels++; return 0; }
  counted[k == cudaMemcpyHostToDevice ? (is_pinned(from) ? PINNED : PAGEABLE) : k == cudaMemcpyDeviceToHost ? FETCHED : MOVED]++;
  if (n <= REAL) memmove(to, from, n);
  return 0; }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind k, cudaStream_t s) { return copied(to, from, n, k, s); }
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind k) { copied(to, from, n, k, 0); return waited(graph != 0); }
cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t s) {
  if (capturing(s)) { graph->kernels++; return 0; }
  counted[FILLED]++;
  if (n <= REAL) memset(p, v, n);
  return 0; }
cudaError_t cudaMemset(void *p, int v, size_t n) { return cudaMemsetAsync(p, v, n, 0); }

// ---- what it says it is: an H200, as far as PyTorch asks
cudaError_t cudaGetDeviceCount(int *n) { *n = 1; return 0; }
cudaError_t cudaGetDevice(int *d) { *d = 0; return 0; }
cudaError_t cudaDriverGetVersion(int *v) { *v = CUDART_VERSION; return 0; }
cudaError_t cudaRuntimeGetVersion(int *v) { *v = CUDART_VERSION; return 0; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *most) { *least = 0; *most = -5; return 0; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) {
  memset(p, 0, sizeof *p); strcpy(p->name, "stand-in for an H200");
  p->totalGlobalMem = (size_t)TOTAL_GIB<<30; p->major = 9; p->multiProcessorCount = 132; p->warpSize = 32; p->maxThreadsPerBlock = 1024;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64; p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->maxThreadsPerMultiProcessor = 2048; p->maxBlocksPerMultiProcessor = 32; p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->sharedMemPerBlock = 49152; p->sharedMemPerBlockOptin = 232448; p->sharedMemPerMultiprocessor = 233472; p->l2CacheSize = 60<<20;
  p->concurrentKernels = p->unifiedAddressing = p->canMapHostMemory = 1; p->textureAlignment = 512; p->totalConstMem = 65536; return 0; }
cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int d) {
  static const int known[][2] = {{cudaDevAttrMultiProcessorCount, 132}, {cudaDevAttrMaxThreadsPerBlock, 1024}, {cudaDevAttrWarpSize, 32},
    {cudaDevAttrComputeCapabilityMajor, 9}, {cudaDevAttrMaxGridDimX, 2147483647}, {cudaDevAttrMaxGridDimY, 65535}, {cudaDevAttrMaxGridDimZ, 65535},
    {cudaDevAttrMaxSharedMemoryPerBlock, 49152}, {cudaDevAttrMaxSharedMemoryPerBlockOptin, 232448}, {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
    {cudaDevAttrMaxRegistersPerBlock, 65536}, {cudaDevAttrUnifiedAddressing, 1}};
  *v = 0;
  for (int k = 0; k < sizeof known/sizeof *known; k++) if (known[k][0] == a) *v = known[k][1];
  return 0; }
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
  memset(a, 0, sizeof *a); a->maxThreadsPerBlock = 1024; a->numRegs = 32; a->ptxVersion = a->binaryVersion = 90; a->maxDynamicSharedSizeBytes = 232448; return 0; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t s, unsigned o) { *n = 2; return 0; }
cudaError_t cudaGetSymbolAddress(void **p, const void *s) { static char some[1<<16]; *p = some; return 0; }

// ---- the driver, as far as PyTorch and Triton ask it
static int nothing(void) { return 0; }
int cuInit(unsigned f) { return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { return cudaDeviceGetAttribute(v, a, d); }
int cuDevicePrimaryCtxGetState(int d, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
int cuCtxGetCurrent(void **c) { *c = &main_stream; return 0; }
int cuModuleLoadData(void **m, const void *code) { *m = &main_stream; return 0; }
int cuModuleGetFunction(void **f, void *m, const char *name) { *f = &main_stream; return 0; }
int cuFuncGetAttribute(int *v, int a, void *f) { *v = a ? 0 : 1024; return 0; }
int cuPointerGetAttribute(void **to, int a, void *p) { *to = p; return 0; }
int cuLaunchKernel(void *f, int gx, int gy, int gz, int bx, int by, int bz, int n, cudaStream_t s) { return launched(s); }
int cuLaunchKernelEx(const struct { int sizes[8]; cudaStream_t stream; } *c, void *f, void **a, void **o) { return launched(c->stream); }
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **p, unsigned v, unsigned long long f, enum cudaDriverEntryPointQueryResult *r) {
  *p = strstr(name, "PrimaryCtxGetState") ? (void*)cuDevicePrimaryCtxGetState : (void*)nothing;
  if (r) *r = cudaDriverEntryPointSuccess;
  return 0; }
