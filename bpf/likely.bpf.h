/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the compiler cannot know: which way a call goes nearly always. It lays that way in
 * one piece. After all that the kernel does between two connects hardly a program's code
 * is left in the nearest cache, so that each line less of it is time.
 */
#ifndef HR_LIKELY_BPF_H
#define HR_LIKELY_BPF_H

#define likely(condition) __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

#endif /* HR_LIKELY_BPF_H */
