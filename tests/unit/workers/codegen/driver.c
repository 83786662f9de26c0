/* Calls a compiled module: ROWS INPUTS OUTPUTS; rows on standard input, the answer on standard output. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int eco_run(const float *x, float *y, int64_t n, void *scratch, uint32_t *reason);
const char *eco_meta(void);

int main(int count, char **words) {
  if (count != 4) return 10;
  const size_t rows = (size_t)atoi(words[1]), inputs = (size_t)atoi(words[2]), outputs = (size_t)atoi(words[3]);
  const char *place = strstr(eco_meta(), "\"scratch_bytes\":");
  if (place == NULL) return 11;
  const size_t bytes = ((size_t)atol(place + 16) + 63) / 64 * 64;
  float *x = malloc(rows * inputs * 4), *y = malloc(rows * outputs * 4);
  void *scratch = aligned_alloc(64, bytes);
  if (x == NULL || y == NULL || scratch == NULL || fread(x, inputs * 4, rows, stdin) != rows) return 12;
  uint32_t reason = 0;
  if (eco_run(x, y, (int64_t)rows, scratch, &reason) != 0) return (int)reason;
  return fwrite(y, outputs * 4, rows, stdout) == rows ? 0 : 13;
}
