// Training steps of llm.c's CPU program: GPT-2 124M, random weights, one row of 1,024 tokens. Answers
// every line that it reads with one step and a line of JSON, which is that of torch_worker.py.
// Compiled beside a checkout of llm.c, whose train_gpt2.c has no main() where TESTING is defined.
#define TESTING
#include "train_gpt2.c"

#include <sys/resource.h>

enum { kTokens = 1024, kVocabulary = 50257 };

static double wall(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static unsigned next_random(unsigned* state) { return *state = *state * 1664525u + 1013904223u; }

// Weights of standard deviation 0.02; what norms multiply with is 1, every bias 0.
static void fill(GPT2* model, unsigned* state) {
  float* at = model->params_memory;
  for (int i = 0; i < NUM_PARAMETER_TENSORS; ++i) {
    const int is_scale = i == 2 || i == 8 || i == 14;
    const int is_weight = i == 0 || i == 1 || i == 4 || i == 6 || i == 10 || i == 12;
    for (size_t j = 0; j < model->param_sizes[i]; ++j) {
      const float uniform = (float)(next_random(state) >> 8) / 8388608.0f - 1.0f;
      *at++ = is_scale ? 1.0f : is_weight ? 0.0346f * uniform : 0.0f;
    }
  }
}

int main(void) {
  static GPT2 model;
  model.config = (GPT2Config){kTokens, kVocabulary, 50304, 12, 12, 768};
  fill_in_parameter_sizes(model.param_sizes, model.config);
  for (int i = 0; i < NUM_PARAMETER_TENSORS; ++i) model.num_parameters += model.param_sizes[i];
  model.params_memory = malloc_and_point_parameters(&model.params, model.param_sizes);
  unsigned state = 1;
  fill(&model, &state);
  int tokens[kTokens + 1];
  for (int i = 0; i <= kTokens; ++i) tokens[i] = (int)(next_random(&state) >> 8) % kVocabulary;
  printf("{\"program\": \"llm.c\", \"parameters\": %zu}\n", model.num_parameters);
  fflush(stdout);
  char line[80];
  for (int step = 1; fgets(line, sizeof(line), stdin) != NULL; ++step) {
    const double begin = wall(), used = (double)clock() / CLOCKS_PER_SEC;
    gpt2_forward(&model, tokens, tokens + 1, 1, kTokens);
    gpt2_zero_grad(&model);
    gpt2_backward(&model);
    gpt2_update(&model, 1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, step);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"seconds\": [%f], \"processor_seconds\": [%f], \"losses\": [%f], \"peak\": %ld}\n",
           wall() - begin, (double)clock() / CLOCKS_PER_SEC - used, model.mean_loss,
           usage.ru_maxrss * 1024);
    fflush(stdout);
  }
}
