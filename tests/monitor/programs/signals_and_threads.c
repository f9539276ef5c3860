// Faults, handlers, alternate stacks, timers and threads: the output is the same natively and in the virtual machine.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <stdatomic.h>
static sigjmp_buf jb; static volatile int hits; static void *last; static int code;
static void segv(int s, siginfo_t*i, void*u){ hits++; last=i->si_addr; code=i->si_code; siglongjmp(jb,1);}
static volatile int alrm; static void onalrm(int s){alrm++;}
static pthread_mutex_t m=PTHREAD_MUTEX_INITIALIZER; static long sum; 
static void* th(void*p){for(int i=0;i<10000;i++){pthread_mutex_lock(&m);sum++;pthread_mutex_unlock(&m);}return p;}
static volatile int usr; static void onusr(int s){usr++;}
static void* spin(void*p){ while(!usr); return 0;}
int main(){ char b[200]; int n;
 stack_t ss={.ss_sp=mmap(0,65536,3,MAP_PRIVATE|MAP_ANONYMOUS,-1,0),.ss_size=65536}; sigaltstack(&ss,0);
 struct sigaction sa={.sa_sigaction=segv,.sa_flags=SA_SIGINFO|SA_ONSTACK}; sigaction(SIGSEGV,&sa,0); sigaction(SIGBUS,&sa,0); sigaction(SIGFPE,&sa,0);sigaction(SIGILL,&sa,0);
 if(!sigsetjmp(jb,1)) *(volatile int*)0x1234=1; n=sprintf(b,"null %d %p code %d\n",hits,last,code); write(1,b,n);
 char*p=mmap(0,8192,PROT_READ,MAP_PRIVATE|MAP_ANONYMOUS,-1,0); if(!sigsetjmp(jb,1)) p[4097]=1; n=sprintf(b,"ro %d off %ld code %d\n",hits,(long)((char*)last-p),code); write(1,b,n);
 mprotect(p,8192,PROT_READ|PROT_WRITE); p[4097]=5; if(!sigsetjmp(jb,1)) ((void(*)(void))p)(); n=sprintf(b,"nx %d off %ld code %d\n",hits,(long)((char*)last-p),code); write(1,b,n);
 munmap(p,4096); if(!sigsetjmp(jb,1)) p[10]=1; n=sprintf(b,"unmapped %d off %ld code %d\n",hits,(long)((char*)last-p),code); write(1,b,n);
 if(!sigsetjmp(jb,1)) { volatile int z=0; z=1/z; } n=sprintf(b,"div %d code %d\n",hits,code); write(1,b,n);
 if(!sigsetjmp(jb,1)) { __asm__ volatile("ud2"); } n=sprintf(b,"ud2 %d code %d\n",hits,code); write(1,b,n);
 if(!sigsetjmp(jb,1)) { __asm__ volatile("hlt"); } n=sprintf(b,"hlt %d code %d\n",hits,code); write(1,b,n);
 signal(SIGALRM,onalrm); struct itimerval it={{0,2000},{0,2000}}; setitimer(ITIMER_REAL,&it,0); while(alrm<20); it.it_value.tv_usec=0; setitimer(ITIMER_REAL,&(struct itimerval){0},0); write(1,"alarms\n",7);
 pthread_t t[8]; for(int i=0;i<8;i++) pthread_create(t+i,0,th,0); for(int i=0;i<8;i++) pthread_join(t[i],0); n=sprintf(b,"sum %ld\n",sum); write(1,b,n);
 signal(SIGUSR1,onusr); pthread_create(t,0,spin,0); pthread_kill(t[0],SIGUSR1); pthread_join(t[0],0); n=sprintf(b,"usr %d\n",usr); write(1,b,n);
 for(int r=0;r<50;r++){ for(int i=0;i<4;i++) pthread_create(t+i,0,th,0); for(int i=0;i<4;i++) pthread_join(t[i],0);} n=sprintf(b,"sum %ld\n",sum); write(1,b,n);
 double d=1.5; for(int i=0;i<10;i++) d*=1.1; n=sprintf(b,"%f\n",d); write(1,b,n);
 raise(SIGTERM); }
