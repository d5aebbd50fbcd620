"""SunSpec's home models as one table, written by packaging/sunspec_table.py: do not edit. Reads nothing.

Derived from the model definitions of the SunSpec Alliance (github.com/sunspec/models), licensed under the Apache
License, Version 2.0; changed here: reduced to names, places, types, scale factors, units, access and symbols.

A line is `offset name type registers scale unit access`, then the symbols of an enumeration; `+` goes on with the line
before. Offsets count from the model's header. `group NAME offset` begins the points of a part that repeats; their
offsets count from the repetition.
"""

from __future__ import annotations

MODELS: dict[tuple[int, ...], str] = {
    (1,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 Mn string 16 - - R
18 Md string 16 - - R
34 Opt string 8 - - R
42 Vr string 8 - - R
50 SN string 16 - - R
66 DA uint16 1 - - RW
67 Pad pad 1 - - R
""",
    (
        101,
        102,
        103,
    ): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 A uint16 1 A_SF A R
3 AphA uint16 1 A_SF A R
4 AphB uint16 1 A_SF A R
5 AphC uint16 1 A_SF A R
6 A_SF sunssf 1 - - R
7 PPVphAB uint16 1 V_SF V R
8 PPVphBC uint16 1 V_SF V R
9 PPVphCA uint16 1 V_SF V R
10 PhVphA uint16 1 V_SF V R
11 PhVphB uint16 1 V_SF V R
12 PhVphC uint16 1 V_SF V R
13 V_SF sunssf 1 - - R
14 W int16 1 W_SF W R
15 W_SF sunssf 1 - - R
16 Hz uint16 1 Hz_SF Hz R
17 Hz_SF sunssf 1 - - R
18 VA int16 1 VA_SF VA R
19 VA_SF sunssf 1 - - R
20 VAr int16 1 VAr_SF var R
21 VAr_SF sunssf 1 - - R
22 PF int16 1 PF_SF Pct R
23 PF_SF sunssf 1 - - R
24 WH acc32 2 WH_SF Wh R
26 WH_SF sunssf 1 - - R
27 DCA uint16 1 DCA_SF A R
28 DCA_SF sunssf 1 - - R
29 DCV uint16 1 DCV_SF V R
30 DCV_SF sunssf 1 - - R
31 DCW int16 1 DCW_SF W R
32 DCW_SF sunssf 1 - - R
33 TmpCab int16 1 Tmp_SF C R
34 TmpSnk int16 1 Tmp_SF C R
35 TmpTrns int16 1 Tmp_SF C R
36 TmpOt int16 1 Tmp_SF C R
37 Tmp_SF sunssf 1 - - R
38 St enum16 1 - - R 1=OFF 2=SLEEPING 3=STARTING 4=MPPT 5=THROTTLED 6=SHUTTING_DOWN 7=FAULT 8=STANDBY
39 StVnd enum16 1 - - R
40 Evt1 bitfield32 2 - - R
42 Evt2 bitfield32 2 - - R
44 EvtVnd1 bitfield32 2 - - R
46 EvtVnd2 bitfield32 2 - - R
48 EvtVnd3 bitfield32 2 - - R
50 EvtVnd4 bitfield32 2 - - R
""",
    (111,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 A float32 2 - A R
4 AphA float32 2 - A R
6 AphB float32 2 - A R
8 AphC float32 2 - A R
10 PPVphAB float32 2 - V R
12 PPVphBC float32 2 - V R
14 PPVphCA float32 2 - V R
16 PhVphA float32 2 - V R
18 PhVphB float32 2 - V R
20 PhVphC float32 2 - V R
22 W float32 2 - W R
24 Hz float32 2 - Hz R
26 VA float32 2 - VA R
28 VAr float32 2 - var R
30 PF float32 2 - Pct R
32 WH float32 2 - Wh R
34 DCA float32 2 - A R
36 DCV float32 2 - V R
38 DCW float32 2 - W R
40 TmpCab float32 2 - C R
42 TmpSnk float32 2 - C R
44 TmpTrns float32 2 - C R
46 TmpOt float32 2 - C R
48 St enum16 1 - - R 1=ggOFF 2=ggSLEEPING 3=ggSTARTING 4=ggMPPT 5=ggTHROTTLED 6=ggSHUTTING_DOWN 7=ggFAULT 8=ggSTANDBY
49 StVnd enum16 1 - - R
50 Evt1 bitfield32 2 - - R
52 Evt2 bitfield32 2 - - R
54 EvtVnd1 bitfield32 2 - - R
56 EvtVnd2 bitfield32 2 - - R
58 EvtVnd3 bitfield32 2 - - R
60 EvtVnd4 bitfield32 2 - - R
""",
    (
        112,
        113,
    ): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 A float32 2 - A R
4 AphA float32 2 - A R
6 AphB float32 2 - A R
8 AphC float32 2 - A R
10 PPVphAB float32 2 - V R
12 PPVphBC float32 2 - V R
14 PPVphCA float32 2 - V R
16 PhVphA float32 2 - V R
18 PhVphB float32 2 - V R
20 PhVphC float32 2 - V R
22 W float32 2 - W R
24 Hz float32 2 - Hz R
26 VA float32 2 - VA R
28 VAr float32 2 - var R
30 PF float32 2 - Pct R
32 WH float32 2 - Wh R
34 DCA float32 2 - A R
36 DCV float32 2 - V R
38 DCW float32 2 - W R
40 TmpCab float32 2 - C R
42 TmpSnk float32 2 - C R
44 TmpTrns float32 2 - C R
46 TmpOt float32 2 - C R
48 St enum16 1 - - R 1=OFF 2=SLEEPING 3=STARTING 4=MPPT 5=THROTTLED 6=SHUTTING_DOWN 7=FAULT 8=STANDBY
49 StVnd enum16 1 - - R
50 Evt1 bitfield32 2 - - R
52 Evt2 bitfield32 2 - - R
54 EvtVnd1 bitfield32 2 - - R
56 EvtVnd2 bitfield32 2 - - R
58 EvtVnd3 bitfield32 2 - - R
60 EvtVnd4 bitfield32 2 - - R
""",
    (120,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 DERTyp enum16 1 - - R 4=PV 82=PV_STOR
3 WRtg uint16 1 WRtg_SF W R
4 WRtg_SF sunssf 1 - - R
5 VARtg uint16 1 VARtg_SF VA R
6 VARtg_SF sunssf 1 - - R
7 VArRtgQ1 int16 1 VArRtg_SF var R
8 VArRtgQ2 int16 1 VArRtg_SF var R
9 VArRtgQ3 int16 1 VArRtg_SF var R
10 VArRtgQ4 int16 1 VArRtg_SF var R
11 VArRtg_SF sunssf 1 - - R
12 ARtg uint16 1 ARtg_SF A R
13 ARtg_SF sunssf 1 - - R
14 PFRtgQ1 int16 1 PFRtg_SF cos() R
15 PFRtgQ2 int16 1 PFRtg_SF cos() R
16 PFRtgQ3 int16 1 PFRtg_SF cos() R
17 PFRtgQ4 int16 1 PFRtg_SF cos() R
18 PFRtg_SF sunssf 1 - - R
19 WHRtg uint16 1 WHRtg_SF Wh R
20 WHRtg_SF sunssf 1 - - R
21 AhrRtg uint16 1 AhrRtg_SF AH R
22 AhrRtg_SF sunssf 1 - - R
23 MaxChaRte uint16 1 MaxChaRte_SF W R
24 MaxChaRte_SF sunssf 1 - - R
25 MaxDisChaRte uint16 1 MaxDisChaRte_SF W R
26 MaxDisChaRte_SF sunssf 1 - - R
27 Pad pad 1 - - R
""",
    (121,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 WMax uint16 1 WMax_SF W RW
3 VRef uint16 1 VRef_SF V RW
4 VRefOfs int16 1 VRefOfs_SF V RW
5 VMax uint16 1 VMinMax_SF V RW
6 VMin uint16 1 VMinMax_SF V RW
7 VAMax uint16 1 VAMax_SF VA RW
8 VArMaxQ1 int16 1 VArMax_SF var RW
9 VArMaxQ2 int16 1 VArMax_SF var RW
10 VArMaxQ3 int16 1 VArMax_SF var RW
11 VArMaxQ4 int16 1 VArMax_SF var RW
12 WGra uint16 1 WGra_SF %_WMax/sec RW
13 PFMinQ1 int16 1 PFMin_SF cos() RW
14 PFMinQ2 int16 1 PFMin_SF cos() RW
15 PFMinQ3 int16 1 PFMin_SF cos() RW
16 PFMinQ4 int16 1 PFMin_SF cos() RW
17 VArAct enum16 1 - - RW 1=SWITCH 2=MAINTAIN
18 ClcTotVA enum16 1 - - RW 1=VECTOR 2=ARITHMETIC
19 MaxRmpRte uint16 1 MaxRmpRte_SF %_WGra RW
20 ECPNomHz uint16 1 ECPNomHz_SF Hz RW
21 ConnPh enum16 1 - - RW 1=A 2=B 3=C
22 WMax_SF sunssf 1 - - R
23 VRef_SF sunssf 1 - - R
24 VRefOfs_SF sunssf 1 - - R
25 VMinMax_SF sunssf 1 - - R
26 VAMax_SF sunssf 1 - - R
27 VArMax_SF sunssf 1 - - R
28 WGra_SF sunssf 1 - - R
29 PFMin_SF sunssf 1 - - R
30 MaxRmpRte_SF sunssf 1 - - R
31 ECPNomHz_SF sunssf 1 - - R
""",
    (122,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 PVConn bitfield16 1 - - R
3 StorConn bitfield16 1 - - R
4 ECPConn bitfield16 1 - - R
5 ActWh acc64 4 - Wh R
9 ActVAh acc64 4 - VAh R
13 ActVArhQ1 acc64 4 - varh R
17 ActVArhQ2 acc64 4 - varh R
21 ActVArhQ3 acc64 4 - varh R
25 ActVArhQ4 acc64 4 - varh R
29 VArAval int16 1 VArAval_SF var R
30 VArAval_SF sunssf 1 - - R
31 WAval uint16 1 WAval_SF W R
32 WAval_SF sunssf 1 - - R
33 StSetLimMsk bitfield32 2 - - R
35 StActCtl bitfield32 2 - - R
37 TmSrc string 4 - - R
41 Tms uint32 2 - Secs R
43 RtSt bitfield16 1 - - R
44 Ris uint16 1 Ris_SF ohms R
45 Ris_SF sunssf 1 - - R
""",
    (123,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 Conn_WinTms uint16 1 - Secs RW
3 Conn_RvrtTms uint16 1 - Secs RW
4 Conn enum16 1 - - RW 0=DISCONNECT 1=CONNECT
5 WMaxLimPct uint16 1 WMaxLimPct_SF %_WMax RW
6 WMaxLimPct_WinTms uint16 1 - Secs RW
7 WMaxLimPct_RvrtTms uint16 1 - Secs RW
8 WMaxLimPct_RmpTms uint16 1 - Secs RW
9 WMaxLim_Ena enum16 1 - - RW 0=DISABLED 1=ENABLED
10 OutPFSet int16 1 OutPFSet_SF cos() RW
11 OutPFSet_WinTms uint16 1 - Secs RW
12 OutPFSet_RvrtTms uint16 1 - Secs RW
13 OutPFSet_RmpTms uint16 1 - Secs RW
14 OutPFSet_Ena enum16 1 - - RW 0=DISABLED 1=ENABLED
15 VArWMaxPct int16 1 VArPct_SF %_WMax RW
16 VArMaxPct int16 1 VArPct_SF %_VArMax RW
17 VArAvalPct int16 1 VArPct_SF %_VArAval RW
18 VArPct_WinTms uint16 1 - Secs RW
19 VArPct_RvrtTms uint16 1 - Secs RW
20 VArPct_RmpTms uint16 1 - Secs RW
21 VArPct_Mod enum16 1 - - RW 0=NONE 1=WMax 2=VArMax 3=VArAval
22 VArPct_Ena enum16 1 - - RW 0=DISABLED 1=ENABLED
23 WMaxLimPct_SF sunssf 1 - - R
24 OutPFSet_SF sunssf 1 - - R
25 VArPct_SF sunssf 1 - - R
""",
    (124,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 WChaMax uint16 1 WChaMax_SF W RW
3 WChaGra uint16 1 WChaDisChaGra_SF %_WChaMax/sec RW
4 WDisChaGra uint16 1 WChaDisChaGra_SF %_WChaMax/sec RW
5 StorCtl_Mod bitfield16 1 - - RW
6 VAChaMax uint16 1 VAChaMax_SF VA RW
7 MinRsvPct uint16 1 MinRsvPct_SF %_WChaMax RW
8 ChaState uint16 1 ChaState_SF %_AhrRtg R
9 StorAval uint16 1 StorAval_SF AH R
10 InBatV uint16 1 InBatV_SF V R
11 ChaSt enum16 1 - - R 1=OFF 2=EMPTY 3=DISCHARGING 4=CHARGING 5=FULL 6=HOLDING 7=TESTING
12 OutWRte int16 1 InOutWRte_SF %_WDisChaMax RW
13 InWRte int16 1 InOutWRte_SF _%_WChaMax RW
14 InOutWRte_WinTms uint16 1 - Secs RW
15 InOutWRte_RvrtTms uint16 1 - Secs RW
16 InOutWRte_RmpTms uint16 1 - Secs RW
17 ChaGriSet enum16 1 - - RW 0=PV 1=GRID
18 WChaMax_SF sunssf 1 - - R
19 WChaDisChaGra_SF sunssf 1 - - R
20 VAChaMax_SF sunssf 1 - - R
21 MinRsvPct_SF sunssf 1 - - R
22 ChaState_SF sunssf 1 - - R
23 StorAval_SF sunssf 1 - - R
24 InBatV_SF sunssf 1 - - R
25 InOutWRte_SF sunssf 1 - - R
""",
    (160,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 DCA_SF sunssf 1 - - R
3 DCV_SF sunssf 1 - - R
4 DCW_SF sunssf 1 - - R
5 DCWH_SF sunssf 1 - - R
6 Evt bitfield32 2 - - R
8 N count 1 - - R
9 TmsPer uint16 1 - - R
group module 10
0 ID uint16 1 - - R
1 IDStr string 8 - - R
9 DCA uint16 1 DCA_SF A R
10 DCV uint16 1 DCV_SF V R
11 DCW uint16 1 DCW_SF W R
12 DCWH acc32 2 DCWH_SF Wh R
14 Tms uint32 2 - Secs R
16 Tmp int16 1 - C R
17 DCSt enum16 1 - - R 1=OFF 2=SLEEPING 3=STARTING 4=MPPT 5=THROTTLED 6=SHUTTING_DOWN 7=FAULT 8=STANDBY 9=TEST
+ 10=RESERVED_10
18 DCEvt bitfield32 2 - - R
""",
    (201,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 A int16 1 A_SF A R
3 AphA int16 1 A_SF A R
4 AphB int16 1 A_SF A R
5 AphC int16 1 A_SF A R
6 A_SF sunssf 1 - - R
7 PhV int16 1 V_SF V R
8 PhVphA int16 1 V_SF V R
9 PhVphB int16 1 V_SF V R
10 PhVphC int16 1 V_SF V R
11 PPV int16 1 V_SF V R
12 PPVphAB int16 1 V_SF V R
13 PPVphBC int16 1 V_SF V R
14 PPVphCA int16 1 V_SF V R
15 V_SF sunssf 1 - - R
16 Hz int16 1 Hz_SF Hz R
17 Hz_SF sunssf 1 - - R
18 W int16 1 W_SF W R
19 WphA int16 1 W_SF W R
20 WphB int16 1 W_SF W R
21 WphC int16 1 W_SF W R
22 W_SF sunssf 1 - - R
23 VA int16 1 VA_SF VA R
24 VAphA int16 1 VA_SF VA R
25 VAphB int16 1 VA_SF VA R
26 VAphC int16 1 VA_SF VA R
27 VA_SF sunssf 1 - - R
28 VAR int16 1 VAR_SF var R
29 VARphA int16 1 VAR_SF var R
30 VARphB int16 1 VAR_SF var R
31 VARphC int16 1 VAR_SF var R
32 VAR_SF sunssf 1 - - R
33 PF int16 1 PF_SF Pct R
34 PFphA int16 1 PF_SF Pct R
35 PFphB int16 1 PF_SF Pct R
36 PFphC int16 1 PF_SF Pct R
37 PF_SF sunssf 1 - - R
38 TotWhExp acc32 2 TotWh_SF Wh R
40 TotWhExpPhA acc32 2 TotWh_SF Wh R
42 TotWhExpPhB acc32 2 TotWh_SF Wh R
44 TotWhExpPhC acc32 2 TotWh_SF Wh R
46 TotWhImp acc32 2 TotWh_SF Wh R
48 TotWhImpPhA acc32 2 TotWh_SF Wh R
50 TotWhImpPhB acc32 2 TotWh_SF Wh R
52 TotWhImpPhC acc32 2 TotWh_SF Wh R
54 TotWh_SF sunssf 1 - - R
55 TotVAhExp acc32 2 TotVAh_SF VAh R
57 TotVAhExpPhA acc32 2 TotVAh_SF VAh R
59 TotVAhExpPhB acc32 2 TotVAh_SF VAh R
61 TotVAhExpPhC acc32 2 TotVAh_SF VAh R
63 TotVAhImp acc32 2 TotVAh_SF VAh R
65 TotVAhImpPhA acc32 2 TotVAh_SF VAh R
67 TotVAhImpPhB acc32 2 TotVAh_SF VAh R
69 TotVAhImpPhC acc32 2 TotVAh_SF VAh R
71 TotVAh_SF sunssf 1 - - R
72 TotVArhImpQ1 acc32 2 TotVArh_SF varh R
74 TotVArhImpQ1PhA acc32 2 TotVArh_SF varh R
76 TotVArhImpQ1PhB acc32 2 TotVArh_SF varh R
78 TotVArhImpQ1PhC acc32 2 TotVArh_SF varh R
80 TotVArhImpQ2 acc32 2 TotVArh_SF varh R
82 TotVArhImpQ2PhA acc32 2 TotVArh_SF varh R
84 TotVArhImpQ2PhB acc32 2 TotVArh_SF varh R
86 TotVArhImpQ2PhC acc32 2 TotVArh_SF varh R
88 TotVArhExpQ3 acc32 2 TotVArh_SF varh R
90 TotVArhExpQ3PhA acc32 2 TotVArh_SF varh R
92 TotVArhExpQ3PhB acc32 2 TotVArh_SF varh R
94 TotVArhExpQ3PhC acc32 2 TotVArh_SF varh R
96 TotVArhExpQ4 acc32 2 TotVArh_SF varh R
98 TotVArhExpQ4PhA acc32 2 TotVArh_SF varh R
100 TotVArhExpQ4PhB acc32 2 TotVArh_SF varh R
102 TotVArhExpQ4PhC acc32 2 TotVArh_SF varh R
104 TotVArh_SF sunssf 1 - - R
105 Evt bitfield32 2 - - R
""",
    (
        202,
        203,
        204,
    ): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 A int16 1 A_SF A R
3 AphA int16 1 A_SF A R
4 AphB int16 1 A_SF A R
5 AphC int16 1 A_SF A R
6 A_SF sunssf 1 - - R
7 PhV int16 1 V_SF V R
8 PhVphA int16 1 V_SF V R
9 PhVphB int16 1 V_SF V R
10 PhVphC int16 1 V_SF V R
11 PPV int16 1 V_SF V R
12 PhVphAB int16 1 V_SF V R
13 PhVphBC int16 1 V_SF V R
14 PhVphCA int16 1 V_SF V R
15 V_SF sunssf 1 - - R
16 Hz int16 1 Hz_SF Hz R
17 Hz_SF sunssf 1 - - R
18 W int16 1 W_SF W R
19 WphA int16 1 W_SF W R
20 WphB int16 1 W_SF W R
21 WphC int16 1 W_SF W R
22 W_SF sunssf 1 - - R
23 VA int16 1 VA_SF VA R
24 VAphA int16 1 VA_SF VA R
25 VAphB int16 1 VA_SF VA R
26 VAphC int16 1 VA_SF VA R
27 VA_SF sunssf 1 - - R
28 VAR int16 1 VAR_SF var R
29 VARphA int16 1 VAR_SF var R
30 VARphB int16 1 VAR_SF var R
31 VARphC int16 1 VAR_SF var R
32 VAR_SF sunssf 1 - - R
33 PF int16 1 PF_SF Pct R
34 PFphA int16 1 PF_SF Pct R
35 PFphB int16 1 PF_SF Pct R
36 PFphC int16 1 PF_SF Pct R
37 PF_SF sunssf 1 - - R
38 TotWhExp acc32 2 TotWh_SF Wh R
40 TotWhExpPhA acc32 2 TotWh_SF Wh R
42 TotWhExpPhB acc32 2 TotWh_SF Wh R
44 TotWhExpPhC acc32 2 TotWh_SF Wh R
46 TotWhImp acc32 2 TotWh_SF Wh R
48 TotWhImpPhA acc32 2 TotWh_SF Wh R
50 TotWhImpPhB acc32 2 TotWh_SF Wh R
52 TotWhImpPhC acc32 2 TotWh_SF Wh R
54 TotWh_SF sunssf 1 - - R
55 TotVAhExp acc32 2 TotVAh_SF VAh R
57 TotVAhExpPhA acc32 2 TotVAh_SF VAh R
59 TotVAhExpPhB acc32 2 TotVAh_SF VAh R
61 TotVAhExpPhC acc32 2 TotVAh_SF VAh R
63 TotVAhImp acc32 2 TotVAh_SF VAh R
65 TotVAhImpPhA acc32 2 TotVAh_SF VAh R
67 TotVAhImpPhB acc32 2 TotVAh_SF VAh R
69 TotVAhImpPhC acc32 2 TotVAh_SF VAh R
71 TotVAh_SF sunssf 1 - - R
72 TotVArhImpQ1 acc32 2 TotVArh_SF varh R
74 TotVArhImpQ1PhA acc32 2 TotVArh_SF varh R
76 TotVArhImpQ1PhB acc32 2 TotVArh_SF varh R
78 TotVArhImpQ1PhC acc32 2 TotVArh_SF varh R
80 TotVArhImpQ2 acc32 2 TotVArh_SF varh R
82 TotVArhImpQ2PhA acc32 2 TotVArh_SF varh R
84 TotVArhImpQ2PhB acc32 2 TotVArh_SF varh R
86 TotVArhImpQ2PhC acc32 2 TotVArh_SF varh R
88 TotVArhExpQ3 acc32 2 TotVArh_SF varh R
90 TotVArhExpQ3PhA acc32 2 TotVArh_SF varh R
92 TotVArhExpQ3PhB acc32 2 TotVArh_SF varh R
94 TotVArhExpQ3PhC acc32 2 TotVArh_SF varh R
96 TotVArhExpQ4 acc32 2 TotVArh_SF varh R
98 TotVArhExpQ4PhA acc32 2 TotVArh_SF varh R
100 TotVArhExpQ4PhB acc32 2 TotVArh_SF varh R
102 TotVArhExpQ4PhC acc32 2 TotVArh_SF varh R
104 TotVArh_SF sunssf 1 - - R
105 Evt bitfield32 2 - - R
""",
    (
        211,
        212,
        213,
        214,
    ): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 A float32 2 - A R
4 AphA float32 2 - A R
6 AphB float32 2 - A R
8 AphC float32 2 - A R
10 PhV float32 2 - V R
12 PhVphA float32 2 - V R
14 PhVphB float32 2 - V R
16 PhVphC float32 2 - V R
18 PPV float32 2 - V R
20 PPVphAB float32 2 - V R
22 PPVphBC float32 2 - V R
24 PPVphCA float32 2 - V R
26 Hz float32 2 - Hz R
28 W float32 2 - W R
30 WphA float32 2 - W R
32 WphB float32 2 - W R
34 WphC float32 2 - W R
36 VA float32 2 - VA R
38 VAphA float32 2 - VA R
40 VAphB float32 2 - VA R
42 VAphC float32 2 - VA R
44 VAR float32 2 - var R
46 VARphA float32 2 - var R
48 VARphB float32 2 - var R
50 VARphC float32 2 - var R
52 PF float32 2 - PF R
54 PFphA float32 2 - PF R
56 PFphB float32 2 - PF R
58 PFphC float32 2 - PF R
60 TotWhExp float32 2 - Wh R
62 TotWhExpPhA float32 2 - Wh R
64 TotWhExpPhB float32 2 - Wh R
66 TotWhExpPhC float32 2 - Wh R
68 TotWhImp float32 2 - Wh R
70 TotWhImpPhA float32 2 - Wh R
72 TotWhImpPhB float32 2 - Wh R
74 TotWhImpPhC float32 2 - Wh R
76 TotVAhExp float32 2 - VAh R
78 TotVAhExpPhA float32 2 - VAh R
80 TotVAhExpPhB float32 2 - VAh R
82 TotVAhExpPhC float32 2 - VAh R
84 TotVAhImp float32 2 - VAh R
86 TotVAhImpPhA float32 2 - VAh R
88 TotVAhImpPhB float32 2 - VAh R
90 TotVAhImpPhC float32 2 - VAh R
92 TotVArhImpQ1 float32 2 - varh R
94 TotVArhImpQ1phA float32 2 - varh R
96 TotVArhImpQ1phB float32 2 - varh R
98 TotVArhImpQ1phC float32 2 - varh R
100 TotVArhImpQ2 float32 2 - varh R
102 TotVArhImpQ2phA float32 2 - varh R
104 TotVArhImpQ2phB float32 2 - varh R
106 TotVArhImpQ2phC float32 2 - varh R
108 TotVArhExpQ3 float32 2 - varh R
110 TotVArhExpQ3phA float32 2 - varh R
112 TotVArhExpQ3phB float32 2 - varh R
114 TotVArhExpQ3phC float32 2 - varh R
116 TotVArhExpQ4 float32 2 - varh R
118 TotVArhExpQ4phA float32 2 - varh R
120 TotVArhExpQ4phB float32 2 - varh R
122 TotVArhExpQ4phC float32 2 - varh R
124 Evt bitfield32 2 - - R
""",
    (701,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 ACType enum16 1 - - R 0=SINGLE_PHASE 1=SPLIT_PHASE 2=THREE_PHASE
3 St enum16 1 - - R 0=OFF 1=ON
4 InvSt enum16 1 - - R 0=OFF 1=SLEEPING 2=STARTING 3=RUNNING 4=THROTTLED 5=SHUTTING_DOWN 6=FAULT 7=STANDBY
5 ConnSt enum16 1 - - R 0=DISCONNECTED 1=CONNECTED
6 Alrm bitfield32 2 - - R
8 DERMode bitfield32 2 - - R
10 W int16 1 W_SF W R
11 VA int16 1 VA_SF VA R
12 Var int16 1 Var_SF Var R
13 PF int16 1 PF_SF - R
14 A int16 1 A_SF A R
15 LLV uint16 1 V_SF V R
16 LNV uint16 1 V_SF V R
17 Hz uint32 2 Hz_SF Hz R
19 TotWhInj uint64 4 TotWh_SF Wh R
23 TotWhAbs uint64 4 TotWh_SF Wh R
27 TotVarhInj uint64 4 TotVarh_SF Varh R
31 TotVarhAbs uint64 4 TotVarh_SF Varh R
35 TmpAmb int16 1 Tmp_SF C R
36 TmpCab int16 1 Tmp_SF C R
37 TmpSnk int16 1 Tmp_SF C R
38 TmpTrns int16 1 Tmp_SF C R
39 TmpSw int16 1 Tmp_SF C R
40 TmpOt int16 1 Tmp_SF C R
41 WL1 int16 1 W_SF W R
42 VAL1 int16 1 VA_SF VA R
43 VarL1 int16 1 Var_SF Var R
44 PFL1 int16 1 PF_SF - R
45 AL1 int16 1 A_SF A R
46 VL1L2 uint16 1 V_SF V R
47 VL1 uint16 1 V_SF V R
48 TotWhInjL1 uint64 4 TotWh_SF Wh R
52 TotWhAbsL1 uint64 4 TotWh_SF Wh R
56 TotVarhInjL1 uint64 4 TotVarh_SF Varh R
60 TotVarhAbsL1 uint64 4 TotVarh_SF Varh R
64 WL2 int16 1 W_SF W R
65 VAL2 int16 1 VA_SF VA R
66 VarL2 int16 1 Var_SF Var R
67 PFL2 int16 1 PF_SF - R
68 AL2 int16 1 A_SF A R
69 VL2L3 uint16 1 V_SF V R
70 VL2 uint16 1 V_SF V R
71 TotWhInjL2 uint64 4 TotWh_SF Wh R
75 TotWhAbsL2 uint64 4 TotWh_SF Wh R
79 TotVarhInjL2 uint64 4 TotVarh_SF Varh R
83 TotVarhAbsL2 uint64 4 TotVarh_SF Varh R
87 WL3 int16 1 W_SF W R
88 VAL3 int16 1 VA_SF VA R
89 VarL3 int16 1 Var_SF Var R
90 PFL3 int16 1 PF_SF - R
91 AL3 int16 1 A_SF A R
92 VL3L1 uint16 1 V_SF V R
93 VL3 uint16 1 V_SF V R
94 TotWhInjL3 uint64 4 TotWh_SF Wh R
98 TotWhAbsL3 uint64 4 TotWh_SF Wh R
102 TotVarhInjL3 uint64 4 TotVarh_SF Varh R
106 TotVarhAbsL3 uint64 4 TotVarh_SF Varh R
110 ThrotPct uint16 1 - Pct R
111 ThrotSrc bitfield32 2 - - R
113 A_SF sunssf 1 - - R
114 V_SF sunssf 1 - - R
115 Hz_SF sunssf 1 - - R
116 W_SF sunssf 1 - - R
117 PF_SF sunssf 1 - - R
118 VA_SF sunssf 1 - - R
119 Var_SF sunssf 1 - - R
120 TotWh_SF sunssf 1 - - R
121 TotVarh_SF sunssf 1 - - R
122 Tmp_SF sunssf 1 - - R
123 MnAlrmInfo string 32 - - R
""",
    (702,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 WMaxRtg uint16 1 W_SF W R
3 WOvrExtRtg uint16 1 W_SF W R
4 WOvrExtRtgPF uint16 1 PF_SF - R
5 WUndExtRtg uint16 1 W_SF W R
6 WUndExtRtgPF uint16 1 PF_SF - R
7 VAMaxRtg uint16 1 VA_SF VA R
8 VarMaxInjRtg uint16 1 Var_SF Var R
9 VarMaxAbsRtg uint16 1 Var_SF Var R
10 WChaRteMaxRtg uint16 1 W_SF W R
11 WDisChaRteMaxRtg uint16 1 W_SF W R
12 VAChaRteMaxRtg uint16 1 VA_SF VA R
13 VADisChaRteMaxRtg uint16 1 VA_SF VA R
14 VNomRtg uint16 1 V_SF V R
15 VMaxRtg uint16 1 V_SF V R
16 VMinRtg uint16 1 V_SF V R
17 AMaxRtg uint16 1 A_SF A R
18 PFOvrExtRtg uint16 1 PF_SF - R
19 PFUndExtRtg uint16 1 PF_SF - R
20 ReactSusceptRtg uint16 1 S_SF S R
21 NorOpCatRtg enum16 1 - - R 0=CAT_A 1=CAT_B
22 AbnOpCatRtg enum16 1 - - R 0=CAT_1 1=CAT_2 2=CAT_3
23 CtrlModes bitfield32 2 - - R
25 IntIslandCatRtg bitfield16 1 - - R
26 WMax uint16 1 W_SF W RW
27 WMaxOvrExt uint16 1 W_SF W RW
28 WOvrExtPF uint16 1 PF_SF - RW
29 WMaxUndExt uint16 1 W_SF W RW
30 WUndExtPF uint16 1 PF_SF - RW
31 VAMax uint16 1 VA_SF VA RW
32 VarMaxInj uint16 1 Var_SF Var RW
33 VarMaxAbs uint16 1 Var_SF Var RW
34 WChaRteMax uint16 1 W_SF W RW
35 WDisChaRteMax uint16 1 W_SF W RW
36 VAChaRteMax uint16 1 VA_SF VA RW
37 VADisChaRteMax uint16 1 VA_SF VA RW
38 VNom uint16 1 V_SF V RW
39 VMax uint16 1 V_SF V RW
40 VMin uint16 1 V_SF V RW
41 AMax uint16 1 A_SF A RW
42 PFOvrExt uint16 1 PF_SF - RW
43 PFUndExt uint16 1 PF_SF - RW
44 IntIslandCat bitfield16 1 - - RW
45 W_SF sunssf 1 - - R
46 PF_SF sunssf 1 - - R
47 VA_SF sunssf 1 - - R
48 Var_SF sunssf 1 - - R
49 V_SF sunssf 1 - - R
50 A_SF sunssf 1 - - R
51 S_SF sunssf 1 - - R
""",
    (703,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 ES enum16 1 - - RW 0=DISABLED 1=ENABLED
3 ESVHi uint16 1 V_SF Pct RW
4 ESVLo uint16 1 V_SF Pct RW
5 ESHzHi uint32 2 Hz_SF Hz RW
7 ESHzLo uint32 2 Hz_SF Hz RW
9 ESDlyTms uint32 2 - Secs RW
11 ESRndTms uint32 2 - Secs RW
13 ESRmpTms uint32 2 - Secs RW
15 ESDlyRemTms uint32 2 - Secs R
17 V_SF sunssf 1 - - R
18 Hz_SF sunssf 1 - - R
""",
    (704,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 PFWInjEna enum16 1 - - RW 0=DISABLED 1=ENABLED
3 PFWInjEnaRvrt enum16 1 - - RW 0=DISABLED 1=ENABLED
4 PFWInjRvrtTms uint32 2 - Secs RW
6 PFWInjRvrtRem uint32 2 - Secs R
8 PFWAbsEna enum16 1 - - RW 0=DISABLED 1=ENABLED
9 PFWAbsEnaRvrt enum16 1 - - RW 0=DISABLED 1=ENABLED
10 PFWAbsRvrtTms uint32 2 - Secs RW
12 PFWAbsRvrtRem uint32 2 - Secs R
14 WMaxLimPctEna enum16 1 - - RW 0=DISABLED 1=ENABLED
15 WMaxLimPct uint16 1 WMaxLimPct_SF Pct RW
16 WMaxLimPctRvrt uint16 1 WMaxLimPct_SF Pct RW
17 WMaxLimPctEnaRvrt enum16 1 - - RW 0=DISABLED 1=ENABLED
18 WMaxLimPctRvrtTms uint32 2 - Secs RW
20 WMaxLimPctRvrtRem uint32 2 - Secs R
22 WSetEna enum16 1 - - RW 0=DISABLED 1=ENABLED
23 WSetMod enum16 1 - - RW 0=W_MAX_PCT 1=WATTS
24 WSet int32 2 WSet_SF W RW
26 WSetRvrt int32 2 WSet_SF W RW
28 WSetPct int16 1 WSetPct_SF Pct RW
29 WSetPctRvrt int16 1 WSetPct_SF Pct RW
30 WSetEnaRvrt enum16 1 - - RW 0=DISABLED 1=ENABLED
31 WSetRvrtTms uint32 2 - Secs RW
33 WSetRvrtRem uint32 2 - Secs R
35 VarSetEna enum16 1 - - RW 0=DISABLED 1=ENABLED
36 VarSetMod enum16 1 - - RW 0=W_MAX_PCT 1=VAR_MAX_PCT 2=VAR_AVAIL_PCT 3=VA_MAX_PCT 4=VARS
37 VarSetPri enum16 1 - - RW 0=ACTIVE 1=REACTIVE 2=VENDOR
38 VarSet int32 2 VarSet_SF Var RW
40 VarSetRvrt int32 2 VarSet_SF Var RW
42 VarSetPct int16 1 VarSetPct_SF Pct RW
43 VarSetPctRvrt int16 1 VarSetPct_SF Pct RW
44 VarSetEnaRvrt enum16 1 - - RW 0=DISABLED 1=ENABLED
45 VarSetRvrtTms uint32 2 - Secs RW
47 VarSetRvrtRem uint32 2 - Secs R
49 WRmp uint16 1 - %Max/Sec RW
50 WRmpRef enum16 1 - - RW 0=A_MAX 1=W_MAX
51 VarRmp uint16 1 - %Max/Sec RW
52 AntiIslEna enum16 1 - - RW 0=DISABLED 1=ENABLED
53 PF_SF sunssf 1 - - R
54 WMaxLimPct_SF sunssf 1 - - R
55 WSet_SF sunssf 1 - - R
56 WSetPct_SF sunssf 1 - - R
57 VarSet_SF sunssf 1 - - R
58 VarSetPct_SF sunssf 1 - - R
59 PFWInj.PF uint16 1 PF_SF - RW
60 PFWInj.Ext enum16 1 - - RW 0=OVER_EXCITED 1=UNDER_EXCITED
61 PFWInjRvrt.PF uint16 1 PF_SF - RW
62 PFWInjRvrt.Ext enum16 1 - - RW 0=OVER_EXCITED 1=UNDER_EXCITED
63 PFWAbs.PF uint16 1 PF_SF - RW
64 PFWAbs.Ext enum16 1 - - RW 0=OVER_EXCITED 1=UNDER_EXCITED
65 PFWAbsRvrt.PF uint16 1 PF_SF - RW
66 PFWAbsRvrt.Ext enum16 1 - - RW 0=OVER_EXCITED 1=UNDER_EXCITED
""",
    (713,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 WHRtg uint16 1 WH_SF WH R
3 WHAvail uint16 1 WH_SF WH R
4 SoC uint16 1 Pct_SF Pct R
5 SoH uint16 1 Pct_SF Pct R
6 Sta enum16 1 - - R 0=OK 1=WARNING 2=ERROR
7 WH_SF sunssf 1 - - R
8 Pct_SF sunssf 1 - - R
""",
    (714,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 PrtAlrms bitfield32 2 - - R
4 NPrt uint16 1 - - R
5 DCA int16 1 DCA_SF A R
6 DCW int16 1 DCW_SF W R
7 DCWhInj uint64 4 DCWH_SF Wh R
11 DCWhAbs uint64 4 DCWH_SF Wh R
15 DCA_SF sunssf 1 - - R
16 DCV_SF sunssf 1 - - R
17 DCW_SF sunssf 1 - - R
18 DCWH_SF sunssf 1 - - R
19 Tmp_SF sunssf 1 - - R
group Prt 20
0 PrtTyp enum16 1 - - R 0=PV 1=ESS 2=EV 3=INJ 4=ABS 5=BIDIR 6=DC_DC
1 ID uint16 1 - - R
2 IDStr string 8 - - R
10 DCA int16 1 DCA_SF A R
11 DCV uint16 1 DCV_SF V R
12 DCW int16 1 DCW_SF W R
13 DCWhInj uint64 4 DCWH_SF Wh R
17 DCWhAbs uint64 4 DCWH_SF Wh R
21 Tmp int16 1 Tmp_SF C R
22 DCSta enum16 1 - - R 0=OFF 1=ON 2=WARNING 3=ERROR
23 DCAlrm bitfield32 2 - - R
""",
    (802,): """
0 ID uint16 1 - - R
1 L uint16 1 - - R
2 AHRtg uint16 1 AHRtg_SF Ah R
3 WHRtg uint16 1 WHRtg_SF Wh R
4 WChaRteMax uint16 1 WChaDisChaMax_SF W R
5 WDisChaRteMax uint16 1 WChaDisChaMax_SF W R
6 DisChaRte uint16 1 DisChaRte_SF %WHRtg R
7 SoCMax uint16 1 SoC_SF %WHRtg R
8 SoCMin uint16 1 SoC_SF %WHRtg R
9 SocRsvMax uint16 1 SoC_SF %WHRtg RW
10 SoCRsvMin uint16 1 SoC_SF %WHRtg RW
11 SoC uint16 1 SoC_SF %WHRtg R
12 DoD uint16 1 DoD_SF % R
13 SoH uint16 1 SoH_SF % R
14 NCyc uint32 2 - - R
16 ChaSt enum16 1 - - R 1=OFF 2=EMPTY 3=DISCHARGING 4=CHARGING 5=FULL 6=HOLDING 7=TESTING
17 LocRemCtl enum16 1 - - R 0=REMOTE 1=LOCAL
18 Hb uint16 1 - - R
19 CtrlHb uint16 1 - - RW
20 AlmRst uint16 1 - - RW
21 Typ enum16 1 - - R 0=NOT_APPLICABLE_UNKNOWN 1=LEAD_ACID 2=NICKEL_METAL_HYDRATE 3=NICKEL_CADMIUM 4=LITHIUM_ION
+ 5=CARBON_ZINC 6=ZINC_CHLORIDE 7=ALKALINE 8=RECHARGEABLE_ALKALINE 9=SODIUM_SULFUR 10=FLOW 99=OTHER
22 State enum16 1 - - R 1=DISCONNECTED 2=INITIALIZING 3=CONNECTED 4=STANDBY 5=SOC_PROTECTION 6=SUSPENDING 99=FAULT
23 StateVnd enum16 1 - - R
24 WarrDt uint32 2 - - R
26 Evt1 bitfield32 2 - - R
28 Evt2 bitfield32 2 - - R
30 EvtVnd1 bitfield32 2 - - R
32 EvtVnd2 bitfield32 2 - - R
34 V uint16 1 V_SF V R
35 VMax uint16 1 V_SF V R
36 VMin uint16 1 V_SF V R
37 CellVMax uint16 1 CellV_SF V R
38 CellVMaxStr uint16 1 - - R
39 CellVMaxMod uint16 1 - - R
40 CellVMin uint16 1 CellV_SF V R
41 CellVMinStr uint16 1 - - R
42 CellVMinMod uint16 1 - - R
43 CellVAvg uint16 1 CellV_SF V R
44 A int16 1 A_SF A R
45 AChaMax uint16 1 AMax_SF A R
46 ADisChaMax uint16 1 AMax_SF A R
47 W int16 1 W_SF W R
48 ReqInvState enum16 1 - - R 0=NO_REQUEST 1=START 2=STOP
49 ReqW int16 1 W_SF W R
50 SetOp enum16 1 - - RW 1=CONNECT 2=DISCONNECT
51 SetInvState enum16 1 - - RW 1=INVERTER_STOPPED 2=INVERTER_STANDBY 3=INVERTER_STARTED
52 AHRtg_SF sunssf 1 - - R
53 WHRtg_SF sunssf 1 - - R
54 WChaDisChaMax_SF sunssf 1 - - R
55 DisChaRte_SF sunssf 1 - - R
56 SoC_SF sunssf 1 - - R
57 DoD_SF sunssf 1 - - R
58 SoH_SF sunssf 1 - - R
59 V_SF sunssf 1 - - R
60 CellV_SF sunssf 1 - - R
61 A_SF sunssf 1 - - R
62 AMax_SF sunssf 1 - - R
63 W_SF sunssf 1 - - R
""",
}
